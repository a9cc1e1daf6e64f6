package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// WHAT THE CHAT DOES

// TestTwoTabs is the demo: one tab posts, both receive, and one that is opened later sees the same.
func TestTwoTabs(t *testing.T) {
	c := start(t)
	ada, bob := subscribe(t, c.URL, "?name=Ada"), subscribe(t, c.URL, "?name=Bob")
	before := time.Now().Truncate(time.Microsecond)
	post(t, c.URL, "Ada", "Hello")
	post(t, c.URL, "Bob", "Hello yourself,\n\n<b>Ada</b>")
	got := ada.messages(2)
	same(t, "Ada's tab", got, []said{
		{got[0].ID, "Ada", "Hello", time.UnixMicro(got[0].ID).UTC()},
		{got[1].ID, "Bob", "Hello yourself,\n\n<b>Ada</b>", time.UnixMicro(got[1].ID).UTC()},
	})
	same(t, "Bob's tab", bob.messages(2), got)
	same(t, "a later tab", subscribe(t, c.URL, "").messages(2), got)
	if got[0].Time.Before(before) || got[1].Time.After(time.Now()) {
		t.Errorf("The times are %v and %v, want times since %v.", got[0].Time, got[1].Time, before)
	}
}

// TestWire checks every byte of a stream, from the headers to the first message.
func TestWire(t *testing.T) {
	c := start(t)
	resp := do(t, "GET", c.URL+"/events?name=Ada", "", "")
	equal(t, "Content-Type", resp.Header.Get("Content-Type"), "text/event-stream")
	equal(t, "Cache-Control", resp.Header.Get("Cache-Control"), "no-cache, no-transform")
	equal(t, "X-Accel-Buffering", resp.Header.Get("X-Accel-Buffering"), "no")
	equal(t, "The transfer encoding", fmt.Sprint(resp.TransferEncoding), "[chunked]")
	body := bufio.NewReader(resp.Body)
	first := lines(t, body, 6)
	var retry, id int64
	fmt.Sscanf(first, "retry: %d\nid: %d\n", &retry, &id)
	equal(t, "The first block", first, fmt.Sprintf("retry: %d\nid: %d\n"+
		"event: users\ndata: {\"count\":1,\"names\":[\"Ada\"]}\nid: %[2]d\n\n", retry, id))
	answer := read(t, do(t, "POST", c.URL+"/message", jsonType, `{"message":"Hi,\nall"}`).Body)
	message := lines(t, body, 3)
	id = subscribe(t, c.URL, "").messages(1)[0].ID
	equal(t, "The message", message, fmt.Sprintf("data: %sid: %d\n\n", answer, id))
}

// TestPage checks that the page shows the latest messages without JavaScript, and only as text.
func TestPage(t *testing.T) {
	c := start(t)
	for i := range latestSize + 1 {
		post(t, c.URL, "<i>Ada", fmt.Sprintf("<script>number %d.", i))
	}
	latest := subscribe(t, c.URL, "").messages(latestSize)
	resp := do(t, "GET", c.URL+"/", "", "")
	page := read(t, resp.Body) // as it is after the redirect
	pattern := fmt.Sprintf(`(?s) data-after="%d"`, latest[latestSize-1].ID)
	for i, m := range latest {
		equal(t, "The text in the stream", m.Text, fmt.Sprintf("<script>number %d.", i+1))
		pattern += fmt.Sprintf(`.* data-id="%d".*?&lt;i&gt;Ada.*?&lt;script&gt;number %d\.`,
			m.ID, i+1)
	}
	if !regexp.MustCompile(pattern).MatchString(page) || strings.Contains(page, "number 0.") {
		t.Errorf("The page does not show the latest %d messages in order:\n%s", latestSize, page)
	}
	_, nonce, _ := strings.Cut(page, `<script nonce="`)
	nonce, _, _ = strings.Cut(nonce, `"`)
	contains(t, "The page", page, `<style nonce="`+nonce+`"`)
	equal(t, "The number of scripts that can run", strings.Count(page, "<script nonce="), 1)
	equal(t, "Cache-Control", resp.Header.Get("Cache-Control"), "no-store")
	equal(t, "Content-Security-Policy", resp.Header.Get("Content-Security-Policy"),
		strings.ReplaceAll("default-src 'none'; script-src 'nonce-X'; style-src 'nonce-X'; "+
			"connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "+
			"frame-ancestors 'none'", "X", nonce))
	if again := read(t, do(t, "GET", c.URL+"/", "", "").Body); strings.Contains(again, nonce) {
		t.Errorf("The nonce %q is empty or used twice.", nonce)
	}
}

// TestResume checks where a reader goes on, depending on the id that it sends.
func TestResume(t *testing.T) {
	c := start(t)
	empty := subscribe(t, c.URL, "").id // An empty room has a place, too.
	var ids []string
	for _, text := range []string{"zero", "one", "two"} {
		post(t, c.URL, "", text)
	}
	for _, m := range subscribe(t, c.URL, "").messages(3) {
		ids = append(ids, strconv.FormatInt(m.ID, 10))
	}
	later := strconv.FormatInt(time.Now().Add(time.Hour).UnixMicro(), 10)
	tests := []struct{ name, query, header, first string }{
		{"no id", "", "", "zero"},
		{"an id in the header", "", ids[0], "one"},
		{"an id in the query", "?after=" + ids[1], "", "two"},
		{"both, and the header wins", "?after=" + ids[1], ids[0], "one"},
		{"the newest id", "", ids[2], "live"},
		{"the id of an empty room", "", empty, "zero"},
		{"no number", "?after=no%00id", "", "zero"},
		{"no number, and the header wins", "?after=" + ids[1], "garbage", "zero"},
		{"a negative number", "", "-1", "zero"},
		{"a number that is too small", "", "-" + strings.Repeat("9", 500), "zero"},
		{"an id that was kept once", "", "1", "missed"},
		{"an id from before the clock was set back", "", later, "missed"},
		{"a number that is too large", "", strings.Repeat("9", 500), "missed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			reader := subscribe(t, c.URL, test.query, "Last-Event-ID: "+test.header)
			post(t, c.URL, "", "live")
			first := reader.next()
			contains(t, "The first event", fmt.Sprint(first), test.first)
			if first.kind == "missed" {
				equal(t, "The message after missed", reader.messages(1)[0].Text, "zero")
			}
		})
	}
}

// TestMissed checks that a reader who was away for too long is told, until it has got that far.
func TestMissed(t *testing.T) {
	c := start(t)
	var all []said
	for i := range historySize + 2 { // Through HTTP, this would take several seconds.
		m := c.room.publish("", fmt.Sprint(i))
		all = append(all, said{m.ID, m.Name, m.Text, m.Time})
	}
	kept, latest, place := all[2:], all[len(all)-latestSize:], all[len(all)-latestSize-1].ID
	id := func(id int64) string { return fmt.Sprint("Last-Event-ID: ", id) }
	same(t, "a newcomer", subscribe(t, c.URL, "").messages(latestSize), latest)
	same(t, "a reader who missed nothing",
		subscribe(t, c.URL, "", id(all[1].ID)).messages(historySize), kept)
	for _, old := range []int64{all[0].ID, 1} {
		cut := subscribe(t, c.URL, "", id(old)) // Before it is told, the connection breaks.
		equal(t, "The id of the first event", cut.id, fmt.Sprint(old))
		cut.close()
		back := subscribe(t, c.URL, "", id(old))
		equal(t, "The event after users", back.next(), event{"missed", all[1].ID, ""})
		same(t, "a reader who missed something", back.messages(historySize), kept)
	}
	later := subscribe(t, c.URL, "", id(all[len(all)-1].ID+1)) // The clock was set back.
	equal(t, "The event after users", later.next(), event{"missed", place, ""})
	same(t, "a reader with a later id", later.messages(latestSize), latest)
}

// TestUsers checks who is said to be here, and when.
func TestUsers(t *testing.T) {
	bubble(t, func(t *testing.T, c *chat) {
		watcher := subscribe(t, c.URL, "?name=+")
		told := func(reader *reader, after time.Duration, want ...string) {
			t.Helper()
			begun := time.Now()
			equal(t, "Who is here", reader.users(), users(want...))
			equal(t, "The time until it is told", time.Since(begun).Round(time.Millisecond), after)
		}
		told(watcher, 0)
		subscribe(t, c.URL, "").close() // It is not listed, neither now nor later.
		ada := subscribe(t, c.URL, "?name=Ada")
		told(ada, 0, "Ada")
		told(watcher, 0, "Ada") // at once, because nothing was announced in the last second

		// What happens within a second is announced together.
		time.Sleep(announceRest / 4)
		bob := subscribe(t, c.URL, "?name=%20Bob%0D%0A")
		told(bob, 0, "Ada")
		subscribe(t, c.URL, "?name=Bob")
		subscribe(t, c.URL, "?name=Cy").close()
		told(watcher, announceRest*3/4, "Ada", "Bob", "Cy")
		told(bob, 0, "Ada", "Bob", "Cy")
		told(watcher, returnTime-announceRest*3/4, "Ada", "Bob") // Cy has not come back.

		// Ada reloads the page, and Bob closes one of his two tabs: nobody has left.
		time.Sleep(2 * returnTime)
		bob.close()
		ada.close()
		time.Sleep(returnTime - time.Millisecond)
		ada = subscribe(t, c.URL, "?name=Ada")
		time.Sleep(2 * returnTime)
		subscribe(t, c.URL, "?name=Dee")
		told(watcher, 0, "Ada", "Bob", "Dee")

		time.Sleep(2 * returnTime)
		ada.close()
		told(watcher, returnTime, "Bob", "Dee")
	})
}

// TestHeartbeat checks that a quiet stream stays open for a day, and is never silent for long.
func TestHeartbeat(t *testing.T) {
	bubble(t, func(t *testing.T, c *chat) {
		stream := bufio.NewReader(do(t, "GET", c.URL+"/events", "", "").Body)
		lines(t, stream, 6)
		for begun := time.Now(); time.Since(begun) < 24*time.Hour; {
			last := time.Now()
			equal(t, "A heartbeat", lines(t, stream, 1), ":\n")
			equal(t, "The time before it", time.Since(last), heartbeat)
		}
		post(t, c.URL, "", "Hello")
		contains(t, "The message after the heartbeats", lines(t, stream, 1), `"message":"Hello"`)
	})
}

// WHAT IT WITHSTANDS

// TestPosts checks which posts are accepted, what is said about the others, and that readers get
// those that are accepted, cleaned up, and nothing of the others.
func TestPosts(t *testing.T) {
	const blank = "The message is blank.\n"
	const malformed = "The form or JSON is malformed or incomplete.\n"
	const wrongType = "The name and the message must be JSON strings.\n"
	const unknownType = "Send a URL-encoded form or JSON.\n"
	const longPost = "A post is limited to 65536 bytes.\n"
	const longMessage = "A message is limited to 2000 characters.\n"
	const wrongName = "A name must be one line of at most 50 characters.\n"
	name, most := strings.Repeat("é", 50), strings.Repeat("é", 2000)
	emoji := strings.Repeat("🙂", 2000)
	padded := "message=a&x=" + strings.Repeat("x", maxBody-12)
	type postTest struct {
		label, kind, body string
		status            int
		name, text        string // as readers get them; of a refusal, text is the answer
	}
	tests := []postTest{
		{"form", formType, "name=Ada&message=hi", 302, "Ada", "hi"},
		{"form with a charset", formType + "; charset=UTF-8", "message=hi", 302, "guest", "hi"},
		{"form with a blank name", formType, "name=+%0A&message=hi", 302, "guest", "hi"},
		{"form with two messages", formType, "message=a&message=b", 302, "guest", "a"},
		{"blanks around", formType, "name=+Ada%0D&message=%0A+a+%0D%0A", 302, "Ada", "a"},
		{"line ends", formType, "message=a%0D%0Ab%0Dc%0A%0Dd", 302, "guest", "a\nb\nc\n\nd"},
		{"not UTF-8", formType, "name=%FE&message=a%FFb", 302, "\uFFFD", "a\uFFFDb"},
		{"longest message", formType, "message=+" + most + "+", 302, "guest", most},
		{"2,000 emoji", formType, "message=" + url.QueryEscape(emoji), 302, "guest", emoji},
		{"longest name", formType, "message=a&name=" + name, 302, name, "a"},
		{"largest body", formType, padded, 302, "guest", "a"},
		{"JSON", jsonType, `{"name":"Ada","message":"hi"}`, 200, "Ada", "hi"},
		{"JSON with a charset", "Application/JSON; a=b", `{"message":"hi"}`, 200, "guest", "hi"},
		{"JSON with null", jsonType, `{"name":null,"message":"hi"}`, 200, "guest", "hi"},
		{"JSON with space around it", jsonType, " {\"message\":\"hi\"}\r\n", 200, "guest", "hi"},
		{"half a surrogate pair", jsonType, `{"message":"a\ud800b"}`, 200, "guest", "a\uFFFDb"},

		{"empty form", formType, "", 400, "", blank},
		{"blank message", formType, "message=+%0A%E2%80%A8", 400, "", blank},
		{"JSON without a message", jsonType, "{}", 400, "", blank},
		{"bad escape", formType, "message=%zz", 400, "", malformed},
		{"semicolon", formType, "name=a;message=b", 400, "", malformed},
		{"empty JSON", jsonType, "", 400, "", malformed},
		{"JSON cut short", jsonType, `{"message":"hi`, 400, "", malformed},
		{"JSON and a brace", jsonType, `{"message":"hi"}}`, 400, "", malformed},
		{"JSON number", jsonType, `{"message":1}`, 400, "", wrongType},
		{"JSON array", jsonType, `["hi"]`, 400, "", wrongType},
		{"message too long", formType, "message=" + most + "é", 413, "", longMessage},
		{"body too large", formType, padded + "x", 413, "", longPost},
		{"JSON too large", jsonType, strings.Repeat(" ", 1<<20), 413, "", longPost},
		{"plain text", "text/plain", "message=a", 415, "", unknownType},
		{"no type", "", "message=a", 415, "", unknownType},
		{"large file", "multipart/form-data; boundary=x", padded + "x", 415, "", unknownType},
		{"name too long", formType, "message=a&name=x" + name, 400, "", wrongName},
	}
	for _, end := range []string{"%0A", "%0D", "%0B", "%0C", "\u0085", "\u2028", "\u2029"} {
		body := "message=a&name=b" + end + "c"
		tests = append(tests, postTest{"line end in the name", formType, body, 400, "", wrongName})
	}
	c := start(t)
	reader := subscribe(t, c.URL, "")
	for _, test := range tests {
		t.Run(test.label, func(t *testing.T) {
			resp := do(t, "POST", c.URL+"/message?message=query", test.kind, test.body)
			answer := read(t, resp.Body)
			equal(t, "The status", resp.StatusCode, test.status)
			if test.status >= 400 {
				equal(t, "The answer", answer, test.text)
				return
			}
			event := reader.next()
			var got said
			json.Unmarshal([]byte(event.data), &got)
			equal(t, "The name", got.Name, test.name)
			equal(t, "The text", got.Text, test.text)
			if test.status == http.StatusFound {
				equal(t, "Location", resp.Header.Get("Location"), "/")
			} else {
				equal(t, "Content-Type", resp.Header.Get("Content-Type"), jsonType)
				equal(t, "The answer", answer, event.data+"\n") // exactly what the stream carries
			}
		})
	}
	for _, request := range []string{formType + "\r\n\r\nmessage=hi", jsonType + "\r\n\r\n{}"} {
		conn := dial(t, c.URL)
		io.WriteString(conn, "POST /message HTTP/1.0\r\nContent-Length: 99\r\n"+
			"Content-Type: "+request)
		conn.(*net.TCPConn).CloseWrite()
		contains(t, "The answer to a body that breaks off", read(t, conn), malformed)
	}
	post(t, c.URL, "", "last")
	equal(t, "The last message", reader.messages(1)[0].Text, "last")
}

// FuzzPost checks that whatever is posted, the server answers, the stream can be read, and what
// is accepted arrives as exactly one message.
func FuzzPost(f *testing.F) {
	for _, text := range []string{"hello", "a\r\nb\rc\n", "\ndata: x\n\nid: 7\n\n", ":\n", "%0A+",
		"\u2028\u0085\v\f", "\xff\xfe", "\x00", "\uFEFF", `\u000a</script>`, `\ud800`} {
		f.Add(false, url.Values{"name": {text}, "message": {text}}.Encode())
		f.Add(true, `{"message":"`+text+`"}`)
	}
	c := start(f)
	reader := subscribe(f, c.URL, "")
	f.Fuzz(func(t *testing.T, isJSON bool, body string) {
		reader.t = t
		kind := map[bool]string{false: formType, true: jsonType}[isJSON]
		resp := do(t, "POST", c.URL+"/message", kind, body)
		form, _ := url.ParseQuery(body)
		text := form.Get("message")
		json.Unmarshal([]byte(read(t, resp.Body)), &struct{ Message *string }{&text})
		post(t, c.URL, "", "the end")
		m := reader.messages(1)[0]
		if resp.StatusCode < 400 {
			if utf8.ValidString(text) && !strings.Contains(text, "\r") {
				equal(t, "The message", m.Text, strings.TrimSpace(text))
			}
			m = reader.messages(1)[0]
		}
		equal(t, "The next message", m.Text, "the end")
		equal(t, "Whether it is an error of the server", resp.StatusCode >= 500, false)
	})
}

// TestRequests checks which requests are served, and to whom. Only the chat's own page, programs
// other than browsers, and the pages of -origin can read the stream and post.
func TestRequests(t *testing.T) {
	const app, evil = "https://app.example", "https://evil.example"
	const wrongName = "A name must be one line of at most 50 characters.\n"
	const hasBody = "A stream request must not have a body.\n"
	const otherOrigin = "A page from another origin may not do this.\n"
	plain, forApp := start(t), startOn(t, listen(t, "127.0.0.1:0"), app)
	tests := []struct {
		request, site, origin string // Browsers send the last two as Sec-Fetch-Site and Origin.
		status, statusForApp  int
		answer                string
	}{
		{"GET /events", "", "", 200, 200, ""}, // curl
		{"HEAD /events", "", "", 200, 200, ""},
		{"POST /message", "", "", 302, 302, ""},
		{"GET /events", "same-origin", "", 200, 200, ""},
		{"POST /message", "", plain.URL, 302, 403, ""}, // our page in an old browser
		{"GET /events", "none", "", 200, 200, ""},      // an address that somebody typed
		{"GET /", "cross-site", "", 200, 200, ""},      // a link
		{"HEAD /events", "cross-site", "", 403, 403, ""},
		{"GET /events", "cross-site", "", 403, 403, otherOrigin}, // an iframe or an object
		{"GET /events", "same-site", "", 403, 403, otherOrigin},
		{"GET /events", "cross-site", evil, 403, 403, otherOrigin},
		{"GET /events", "", evil, 403, 403, otherOrigin},
		{"POST /message", "cross-site", evil, 403, 403, otherOrigin},
		{"POST /message", "", evil, 403, 403, otherOrigin},
		{"POST /message", "cross-site", "null", 403, 403, otherOrigin}, // a page in a sandbox
		{"GET /events", "cross-site", app, 403, 200, ""},
		{"POST /message", "cross-site", app, 403, 302, ""},
		{"OPTIONS /events", "cross-site", app, 403, 200, ""}, // a preflight
		{"OPTIONS /message", "cross-site", app, 405, 200, ""},
		{"GET /nowhere", "", "", 404, 404, ""},
		{"GET /server.go", "", "", 404, 404, ""},
		{"GET /message", "", "", 405, 405, ""},
		{"POST /", "", "", 405, 405, ""},
		{"PUT /events", "", "", 405, 405, ""},
		{"GET /events?name=a%0Ab", "", "", 400, 400, wrongName},
		{"GET /events?name=" + strings.Repeat("x", 51), "", "", 400, 400, wrongName},
		{"GET /events?name=a%0Ab message=hi", "", "", 400, 400, hasBody},
	}
	for _, test := range tests {
		t.Run(test.request+" "+test.site+" "+test.origin, func(t *testing.T) {
			for c, status := range map[*chat]int{plain: test.status, forApp: test.statusForApp} {
				method, rest, _ := strings.Cut(test.request, " ")
				path, body, _ := strings.Cut(rest, " ")
				if method == "POST" {
					body = "message=hi"
				}
				resp := do(t, method, c.URL+path, formType, body,
					"Sec-Fetch-Site: "+test.site, "Origin: "+test.origin)
				equal(t, "The status", resp.StatusCode, status)
				equal(t, "Whether there is Allow", resp.Header.Get("Allow") != "", status == 405)
				cors := resp.Header.Get("Access-Control-Allow-Origin") + " " +
					resp.Header.Get("Access-Control-Allow-Headers")
				both := map[*chat]string{plain: " ", forApp: app + " Content-Type, Last-Event-ID"}
				equal(t, "What CORS allows", cors, both[c])
				if status >= 400 {
					contains(t, "The answer", read(t, resp.Body), test.answer)
				}
			}
		})
	}
}

// TestOriginFlag checks that -origin can be whatever browsers send as an Origin, and no more.
func TestOriginFlag(t *testing.T) {
	for _, origin := range []string{"", "https://app.example", "http://localhost:8080",
		"https://app.example:80", "http://app.example:443", "http://127.0.0.1:65535",
		"http://[::1]:3000", "https://my_app.xn--bcher-kva.example", "https://app.example."} {
		if _, err := newRoom().handler(origin); err != nil {
			t.Errorf("The origin %q is refused: %v", origin, err)
		}
	}
	for _, origin := range []string{"app.example", "null", "*", "https://", "ws://app.example",
		"https://app.example/", "https://app.example?x", "https://App.example",
		"HTTPS://app.example", "https://me@app.example", "https://app.example:443",
		"http://app.example:80", "https://app.example:", "https://app.example:0443",
		"https://app.example:65536", "https://bücher.example", "https://1.2.3", "https://[::1",
		"https://app.example ", "https://*.example", "https://a.example,https://b.example"} {
		_, err := newRoom().handler(origin)
		contains(t, "The error", fmt.Sprint(err), fmt.Sprintf("-origin %q ", origin))
	}
}

// TestStalledReaders checks that readers who accept nothing delay nobody, can go on as long as
// they are here, and are cut off in the end.
func TestStalledReaders(t *testing.T) {
	bubble(t, func(t *testing.T, c *chat) {
		var stalled []*reader
		for range 50 {
			stalled = append(stalled, subscribe(t, c.URL, "?name=Ada"))
		}
		healthy := subscribe(t, c.URL, "")
		begun := time.Now()
		for i := range 100 { // These are more than a batch, and each is more than a chunk of HTTP.
			text := strings.Repeat("🙂", maxMessage-i%2)
			post(t, c.URL, "", text)
			equal(t, "The message", healthy.messages(1)[0].Text, text)
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("100 messages take %v, want less than a second.", took)
		}
		stalled[0].messages(100)
		stalled[0].close()
		for healthy.users() != users("Ada") {
		}
		equal(t, "Who is here later", healthy.users(), users())
		took := time.Since(begun).Round(time.Second)
		equal(t, "How long they are here", took, writeTimeout+returnTime)
	})
}

// TestTimeouts checks when a connection that does not go on is cut off.
func TestTimeouts(t *testing.T) {
	const half = " HTTP/1.1\r\nHost: x\r\nContent-Type: " + formType +
		"\r\nContent-Length: 10\r\n\r\nhalf"
	tests := []struct {
		name, request string
		wait          time.Duration // before the answer is read
		want          string
		cutOff        time.Duration
	}{
		{"nothing", "", 0, "", readTimeout},
		{"half a header", "GET /events HTTP/1.1\r\nHost:", 0, "", readTimeout},
		{"half a post", "POST /message" + half, 0, "400", readTimeout},
		{"half a request for a stream", "GET /events" + half, 0, "400", readTimeout},
		{"an idle connection", "GET /x HTTP/1.1\r\nHost: x\r\n\r\n", 0, "404", readTimeout},
		{"a page that nobody reads", "GET / HTTP/1.0\r\n\r\n", writeTimeout + 1, "", writeTimeout},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *chat) {
				conn := dial(t, c.URL)
				begun := time.Now()
				io.WriteString(conn, test.request)
				time.Sleep(test.wait)
				answer := read(t, conn)
				contains(t, "The answer", answer, test.want)
				equal(t, "Whether there is one", answer != "", test.want != "")
				equal(t, "When it ends", time.Since(begun).Round(time.Second), test.cutOff)
			})
		})
	}
}

// TestCrowd checks that a crowd is counted, that a hundred are listed, that it does not come back
// all at once if the connections break, and that nothing is left of it when it has gone.
func TestCrowd(t *testing.T) {
	bubble(t, func(t *testing.T, c *chat) {
		var crowd []*reader
		var names []string
		for i := range maxListed + 50 {
			names = append(names, fmt.Sprintf("%03d", i))
		}
		for _, name := range slices.Backward(names) {
			crowd = append(crowd, subscribe(t, c.URL, "?name="+name))
		}
		time.Sleep(announceRest + time.Millisecond)
		want := strings.Replace(users(names[:maxListed]...), "100", "150", 1)
		equal(t, "Who is here", subscribe(t, c.URL, "").users(), want)
		var waits []int
		for _, reader := range crowd {
			waits = append(waits, reader.retry)
			reader.close()
		}
		least, most := slices.Min(waits), slices.Max(waits)
		if least < 1000 || most > 2000 || most-least < 500 {
			t.Errorf("They wait %d to %d ms before they reconnect, want 1000 to 2000.", least, most)
		}
		time.Sleep(2 * returnTime)
		equal(t, "Who is here later", subscribe(t, c.URL, "").users(), users())
		equal(t, "The number of streams", len(c.room.streams), 2)
		equal(t, "The number of names", len(c.room.left), 0)
	})
}

// TestServe checks how a server ends: on ^C, it cuts off a request that does not go on, and the
// program learns if it cannot go on itself.
func TestServe(t *testing.T) {
	bubble(t, func(t *testing.T, c *chat) {
		conn := dial(t, c.URL)
		io.WriteString(conn, "POST /message HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"+
			"Content-Type: "+formType+"\r\n\r\nmess")
		synctest.Wait()
		begun := time.Now()
		c.stop()
		equal(t, "The time that it takes to stop", time.Since(begun), shutdownTimeout)
		equal(t, "The answer", read(t, conn), "")
	})
	closed := listen(t, "127.0.0.1:0")
	closed.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	equal(t, "Whether it says so", errors.Is(serve(ctx, closed, nil), net.ErrClosed), true)
}

// TestUnderFire lets many people post at once, while some readers stay and others come and go all
// the time. Everybody gets all messages, once, in one order.
func TestUnderFire(t *testing.T) {
	const readers, posters, each = 20, 4, 250
	c := start(t)
	stays := subscribe(t, c.URL, "")
	first := stays.id
	var wg sync.WaitGroup
	for i := range posters {
		wg.Go(func() {
			for j := range each {
				post(t, c.URL, fmt.Sprint(i), fmt.Sprint(j))
			}
		})
	}
	got := make([][]said, readers)
	for i := range readers {
		wg.Go(func() {
			for id := first; len(got[i]) < posters*each; {
				reader := subscribe(t, c.URL, "", "Last-Event-ID: "+id)
				n := min(1+(i+len(got[i]))%40, posters*each-len(got[i]))
				got[i] = append(got[i], reader.messages(n)...)
				id = reader.id
				reader.close()
			}
		})
	}
	want := stays.messages(posters * each)
	wg.Wait()
	next := make([]int, posters)
	for _, m := range want {
		poster, _ := strconv.Atoi(m.Name)
		equal(t, "The next message of poster "+m.Name, m.Text, fmt.Sprint(next[poster]))
		next[poster]++
	}
	for i := range readers {
		same(t, "a reader who comes and goes", got[i], want)
	}
}

// TestStop checks that on ^C, streams end, and a post that is in flight is answered.
func TestStop(t *testing.T) {
	c := start(t)
	var readers []*reader
	for range 100 {
		readers = append(readers, subscribe(t, c.URL, "?name=Ada"))
	}
	late := dial(t, c.URL)
	fmt.Fprintf(late, "POST /message HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"+
		"Content-Type: %s\r\nContent-Length: 9\r\n\r\n", formType)
	answer := bufio.NewReader(late)
	contains(t, "The answer to a post that waits", lines(t, answer, 2), "100 Continue")
	var stopping sync.WaitGroup
	begun := time.Now()
	stopping.Go(c.stop)
	for _, reader := range readers {
		equal(t, "The error at the end of a stream", reader.end(), io.EOF)
	}
	io.WriteString(late, "message=a")
	contains(t, "The answer to a post in flight", lines(t, answer, 1), "302 Found")
	stopping.Wait()
	if took := time.Since(begun); took >= shutdownTimeout {
		t.Errorf("Stopping takes %v, want less than %v.", took, shutdownTimeout)
	}
	equal(t, "The number of streams", len(c.room.streams), 0)
}

// TestProcess checks the program itself: its flags, its signals, and what it says.
func TestProcess(t *testing.T) {
	taken := listen(t, "127.0.0.1:0").Addr().String()
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"port in use", []string{"-addr", taken}, 1, taken},
		{"no address", []string{"-addr", "nowhere"}, 1, "nowhere"},
		{"stray argument", []string{"-addr", "localhost:0", ":4226"}, 1, `argument ":4226"`},
		{"no origin", []string{"-origin", "app.example"}, 1, `-origin "app.example"`},
		{"help", []string{"-h"}, 0, `(default "localhost:3000")`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cmd := command(t, ours, test.args...)
			output, _ := cmd.CombinedOutput()
			equal(t, "The exit code", cmd.ProcessState.ExitCode(), test.code)
			contains(t, "What it says", string(output), test.want)
			if n := bytes.Count(output, []byte("\n")); test.code != 0 {
				equal(t, "The number of lines that it says", n, 1)
			}
		})
	}
	t.Run("all addresses", func(t *testing.T) {
		p := launch(t, ours, "-addr", ":0", "-origin", "https://app.example")
		contains(t, "The address that it says", p.url, "http://localhost:")
		subscribe(t, p.url, "", "Origin: https://app.example")
	})
	if runtime.GOOS == "windows" {
		t.Skip("On Windows, a process cannot send signals.")
	}
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			p := launch(t, ours, "-addr", "localhost:0")
			reader := subscribe(t, p.url, "")
			p.cmd.Process.Signal(sig)
			equal(t, "The error at the end of the stream", reader.end(), io.EOF)
			equal(t, "The error at the end of the process", p.cmd.Wait(), nil)
		})
	}
	t.Run("second interrupt", func(t *testing.T) {
		// A script that is started with & ignores ^C, and so would our process, unless we catch it.
		caught := make(chan os.Signal, 1)
		signal.Notify(caught, os.Interrupt)
		defer signal.Stop(caught)
		p := launch(t, ours, "-addr", "localhost:0")
		io.WriteString(dial(t, p.url), "GET") // The first ^C waits for the rest of this.
		reader := subscribe(t, p.url, "")
		begun := time.Now()
		p.cmd.Process.Signal(os.Interrupt)
		reader.end()
		go func() { // Right after the first one, a signal may still be taken for it.
			for p.cmd.Process.Signal(os.Interrupt) == nil {
				runtime.Gosched()
			}
		}()
		err := p.cmd.Wait()
		if took := time.Since(begun); err == nil || took > shutdownTimeout*2/3 {
			t.Errorf("The process ends with %v after %v, want an error at once.", err, took)
		}
	})
}

// THE SMALL VERSION

type smallChat struct {
	mu      sync.Mutex
	readers map[http.ResponseWriter]bool
}

func (c *smallChat) events(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.(http.Flusher).Flush()
	c.mu.Lock()
	c.readers[w] = true
	c.mu.Unlock()
	<-req.Context().Done()
	c.mu.Lock()
	delete(c.readers, w)
	c.mu.Unlock()
}

func (c *smallChat) post(w http.ResponseWriter, req *http.Request) {
	c.mu.Lock()
	for reader := range c.readers {
		fmt.Fprintf(reader, "data: %s\n\n", req.FormValue("message"))
		reader.(http.Flusher).Flush()
	}
	c.mu.Unlock()
	http.Redirect(w, req, "/", http.StatusFound)
}

// startSmall starts the small version.
func startSmall(t testing.TB, listener net.Listener) *chat {
	small := &smallChat{readers: make(map[http.ResponseWriter]bool)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", small.events)
	mux.HandleFunc("POST /message", small.post)
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	stop := func() { server.Shutdown(t.Context()) }
	return &chat{URL: "http://" + listener.Addr().String(), stop: stop}
}

// TestSmallVersion shows the rows of the README's table: in each, something works in our version
// and not in the small one. In a bubble, a connection buffers next to nothing.
func TestSmallVersion(t *testing.T) {
	tests := []struct {
		goesWrong string
		works     func(t *testing.T, c *chat) bool
	}{
		{"one stalled reader stops everybody", func(t *testing.T, c *chat) bool {
			do(t, "GET", c.URL+"/events", "", "") // It reads only the headers.
			healthy := hear(t, c, "")
			return say(c, "hello") && healthy.until("hello")
		}},
		{"a message with a line end forges an event", func(t *testing.T, c *chat) bool {
			reader := hear(t, c, "")
			say(c, "hello\n\ndata: forged")
			say(c, "the end")
			reader.until("the end")
			return !slices.Contains(reader.heard, "data: forged")
		}},
		{"a reader who reconnects has missed what was said", func(t *testing.T, c *chat) bool {
			reader := hear(t, c, "")
			say(c, "hello")
			reader.until("hello")
			reader.until("id: ")
			id := strings.TrimPrefix(reader.heard[len(reader.heard)-1], "id: ")
			reader.close()
			say(c, "meanwhile")
			return hear(t, c, id).until("meanwhile")
		}},
		{"the sender's own page does not show the message", func(t *testing.T, c *chat) bool {
			page := hear(t, c, "")
			say(c, "hello")
			page.close() // The browser follows the redirect, and loads the page anew.
			return hear(t, c, "").until("hello")
		}},
		{"^C hangs while a tab is open", func(t *testing.T, c *chat) bool {
			hear(t, c, "")
			stopped := make(chan bool)
			go func() { c.stop(); close(stopped) }()
			select {
			case <-stopped:
				return true
			case <-time.After(time.Minute):
				return false
			}
		}},
		{"a quiet stream is silent for an hour", func(t *testing.T, c *chat) bool {
			reader := hear(t, c, "")
			before := len(reader.lines)
			time.Sleep(time.Hour)
			return len(reader.lines) > before
		}},
		{"a burst costs a write for each message and reader", func(t *testing.T, c *chat) bool {
			const readers, messages = 10, 200
			var all []*listener
			for range readers {
				all = append(all, hear(t, c, ""))
			}
			before := c.network.writes.Load()
			for i := range messages {
				say(c, fmt.Sprintf("number %d.", i))
			}
			for _, reader := range all {
				reader.until("number 199.")
			}
			return c.network.writes.Load()-before-messages < readers*messages/10
		}},
	}
	for _, test := range tests {
		t.Run(test.goesWrong, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *chat) {
				equal(t, "Whether it works in our version", test.works(t, c), true)
			})
			bubbleWith(t, startSmall, func(t *testing.T, c *chat) {
				equal(t, "Whether it works in the small version", test.works(t, c), false)
			})
		})
	}
}

// A listener reads any stream, even that of the small version, line by line.
type listener struct {
	lines chan string
	heard []string // the lines that until has looked at
	close func() error
}

// hear opens a stream, and waits until it is registered.
func hear(t *testing.T, c *chat, lastEventID string) *listener {
	t.Helper()
	resp := do(t, "GET", c.URL+"/events", "", "", "Last-Event-ID: "+lastEventID)
	l := &listener{lines: make(chan string, 100_000), close: resp.Body.Close}
	go func() {
		for scanner := bufio.NewScanner(resp.Body); scanner.Scan(); {
			l.lines <- scanner.Text()
		}
	}()
	synctest.Wait()
	return l
}

// until reports whether a line with text comes within a minute.
func (l *listener) until(text string) bool {
	timeout := time.After(time.Minute)
	for {
		select {
		case line := <-l.lines:
			l.heard = append(l.heard, line)
			if strings.Contains(line, text) {
				return true
			}
		case <-timeout:
			return false
		}
	}
}

// say posts a message, and reports whether it is answered within a minute.
func say(c *chat, text string) bool {
	oneMinute := *client
	oneMinute.Timeout = time.Minute
	resp, err := oneMinute.PostForm(c.URL+"/message", url.Values{"message": {text}})
	if err != nil {
		return false
	}
	resp.Body.Close()
	return true
}

// THE PAGE

// TestBrowserTwoTabs is the demo in a browser.
func TestBrowserTwoTabs(t *testing.T) {
	c := start(t)
	one := open(t, c.URL, "Math.random = () => .1") // The names are made up.
	first := one.eval("$('#name').value")
	one.rename("Ada")
	two := open(t, c.URL, "Math.random = () => .9")
	second := two.eval("$('#name').value")
	if first == "" || second == "" || second == first || second == "Ada" {
		t.Errorf("The first names of two tabs are %q and %q, want two.", first, second)
	}
	two.rename("Bob")
	one.wait("/Ada.*Bob/.test(texts('#here li'))", "true")
	one.keys("#message", "Hello"+enter)
	two.shows("Ada: Hello")
	two.keys("#message", "Hi there"+enter)
	one.shows("Ada: Hello", "Bob: Hi there")
	two.wait("texts('.own .text')", "Hi there")
	one.reload()
	one.shows("Ada: Hello", "Bob: Hi there")
	one.wait("texts('.own .text')", "Hello")
	one.wait("box('.own .name').left > box('.name:not(.own *)').left", "true")
	one.wait("box('.own .text').left > box('.text:not(.own *)').left", "true")
}

func TestBrowserMarkup(t *testing.T) {
	const markup = `<em>no</em><img src="/x" onerror="ran = true"><script>ran = true</script>&amp;`
	c := start(t)
	w, eve := open(t, c.URL), open(t, c.URL)
	w.expected, eve.expected = "Content Security Policy", "Content Security Policy"
	eve.rename("<i>Eve</i>")
	w.wait("texts('.quiet').includes('<i>Eve</i> joined')", "true")
	eve.keys("#message", markup+enter)
	for range 2 { // The message comes live at first, and then in the page.
		w.shows("<i>Eve</i>: " + markup)
		w.wait("texts('#here li').includes('<i>Eve</i>')", "true")
		w.wait("all(':is(#log, #here, #wire) :is(em, i, img, script)').length", "0")
		w.reload()
	}
	// Even if markup got into the page, its scripts would not run.
	w.eval(`document.body.append(Object.assign(document.createElement("script"),
		{ textContent: "ran = true" }))`)
	w.wait("typeof ran", "undefined")
}

// TestBrowserMemory checks that the name and the draft outlive a reload and going back.
func TestBrowserMemory(t *testing.T) {
	c := start(t)
	w := open(t, c.URL)
	w.keys("#message", "Hello"+enter)
	w.wait("texts('.own .text')", "Hello")
	w.rename("Ada")
	w.keys("#message", "one"+shift+enter+enter+release+"three")
	for _, leave := range []func(){
		w.reload,
		func() { w.visit("about:blank"); post(t, c.URL, "Bob", "meanwhile"); w.back() },
	} {
		leave()
		w.wait("state()", live)
		w.wait("[$('#name').value, $('#message').value, linesTall()]", "Ada,one\n\nthree,3")
		w.wait("texts('#here li').includes('Ada')", "true")
	}
	w.wait("texts('.text')", "Hello | meanwhile")
	w.keys("#message", enter)
	w.wait("texts('.text')", "Hello | meanwhile | one\n\nthree")
	w.reload()
	w.wait("state() + $('#message').value", live)
	w.wait("texts('.own .name')", "Ada")
}

// TestBrowserLog checks how the page shows messages: each once, in groups, with local times.
func TestBrowserLog(t *testing.T) {
	url, events := feed(t)
	post(t, url, "Ada", "one")
	w := open(t, start(t).URL, `
		const [RealDate, interval] = [Date, setInterval];
		now = "2026-11-20T14:59:00Z";
		Date = class extends RealDate {
			constructor(...time) { super(...(time.length > 0 ? time : [now])); }
		};
		setInterval = (f, ms) => interval(f, ms / 20);`)
	w.devTools("Emulation.setTimezoneOverride", dict{"timezoneId": "Asia/Tokyo"}, nil)
	w.visit(url)
	w.shows("Ada: one")
	w.wait("/^[A-Z].*[0-9].*[AP]M$/.test($('time').textContent)", "true")
	events <- says("AFTER", "Ada", "one", "") // The page has this message already.
	want := []string{"Ada: one"}
	for i, m := range []string{"Bob 12:00:00", "Bob 12:04:59", "Ada 12:05:00", "Bob 12:05:01",
		"Bob 12:10:02"} {
		message := says(fmt.Sprint(i), m[:3], m[4:], "2026-11-20T"+m[4:]+"Z")
		events <- message + message
		want = append(want, m[:3]+": "+m[4:])
	}
	events <- says("1", "Bob", "12:04:59", "")
	w.shows(want...)
	// What one person sends within five minutes is under one name and time.
	w.wait("all('.name').map(e => (e.scrollIntoView(), seen(e) ? 1 : 0))", "1,1,0,1,1,1")
	w.wait("all('time').map(e => (e.scrollIntoView(), seen(e) ? 1 : 0))", "1,1,0,1,1,1")
	const last = `all("time").at(-1).textContent.replace(/\s/g, " ")`
	w.wait(last, "9:10 PM")
	w.eval("now = '2026-11-20T15:00:00Z'") // It is midnight.
	w.wait(last, "Nov 20, 2026, 9:10 PM")
}

// TestBrowserComposer checks the keys, and that the field grows to six lines.
func TestBrowserComposer(t *testing.T) {
	w := open(t, start(t).URL)
	button := w.eval("$('#send').offsetHeight")
	equal(t, "The height of the field with one line", w.eval("$('#message').offsetHeight"), button)
	for i := range 8 {
		w.wait("linesTall()", fmt.Sprint(min(i+1, 6)))
		w.wait("$('#message').scrollHeight > $('#message').clientHeight", fmt.Sprint(i > 5))
		w.keys("#message", "x"+shift+enter+release)
	}
	equal(t, "The height of the button", w.eval("$('#send').offsetHeight"), button)
	for _, how := range []string{"isComposing: true", "keyCode: 229"} { // Enter picks a word.
		w.wait(`$("#message").dispatchEvent(new KeyboardEvent("keydown",
			{ key: "Enter", bubbles: true, cancelable: true, `+how+` }))`, "true")
	}
	w.keys("#message", "y"+enter)
	sent := strings.Repeat("x\n", 8) + "y"
	w.wait("texts('.text')", sent)
	w.wait("linesTall()", "1")
	w.keys("#message", "one"+enter+"two"+enter) // The first may still be on its way.
	w.wait("texts('.text')", sent+" | one | two")
	w.keys("#message", "three")
	w.click("#send")
	w.wait("texts('.text')", sent+" | one | two | three")
	w.wait("document.activeElement.id + $('#message').value", "message")
	w.keys("#message", "not")
	w.keys("#name", enter) // This does not send the message.
	w.keys("#message", " yet"+enter)
	w.wait("texts('.text')", sent+" | one | two | three | not yet")
}

// TestBrowserRefused checks that the page keeps what was typed, and says why it was not sent.
func TestBrowserRefused(t *testing.T) {
	var posts atomic.Int32
	w := open(t, front(t, func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method != "POST" || posts.Add(1) == 1 {
			return false
		}
		if posts.Load() == 2 {
			w.WriteHeader(http.StatusBadGateway)
		} else {
			<-t.Context().Done()
		}
		return true
	}), "const f = AbortSignal.timeout; AbortSignal.timeout = ms => f.call(AbortSignal, ms / 20);")
	w.expected = "status of (413|502)"
	for _, test := range [][2]string{
		{strings.Repeat("x", maxMessage+1), "A message is limited to 2000 characters."},
		{"no server", "(502)"},
		{"no answer", "not answer"},
	} {
		w.eval(fmt.Sprintf("$('#message').value = %q", test[0]))
		w.keys("#message", enter)
		w.wait(fmt.Sprintf("$('#why').innerText.includes(%q)", test[1]), "true")
		w.wait("$('#message').value", test[0])
		w.wait(`Math.min(Math.abs(box("#why").top - box("#message").bottom),
			Math.abs(box("#message").top - box("#why").bottom)) < 50`, "true")
		w.keys("#message", "y")
		w.wait("$('#why').innerText", "")
	}
	w.shows()
}

// TestBrowserRestart stops the server. What the page says about it does not outlive its truth.
func TestBrowserRestart(t *testing.T) {
	c := start(t)
	w := open(t, c.URL)
	w.expected = "net::ERR_"
	post(t, c.URL, "Bob", "Good night")
	w.shows("Bob: Good night")
	c.stop()
	w.wait("state()", "connecting: connecting | disconnect")
	w.keys("#message", "Anybody?"+enter)
	w.wait("$('#why').innerText.includes('not answer')", "true")
	startOn(t, listen(t, strings.TrimPrefix(c.URL, "http://")), "")
	post(t, c.URL, "Bob", "Good morning")
	w.wait("state() + $('#why').innerText", live)
	w.wait("texts('#lines li :is(.text, .name)')", "Bob | Good night | Bob | Good morning")
	w.wait("texts('#lines li:nth-child(2), .quiet')", "Some messages may be missing here.")
	w.wait("$('#message').value", "Anybody?")
	w.keys("#message", enter)
	w.wait("texts('.text')", "Good night | Good morning | Anybody?")
}

// TestBrowserBadGateway has a proxy in front of a chat that is not there at first. After such an
// answer, an EventSource gives up, so the page has to try again.
func TestBrowserBadGateway(t *testing.T) {
	var streams atomic.Int32
	w := open(t, front(t, func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != "/events" || streams.Add(1) > 5 {
			return false
		}
		w.WriteHeader(http.StatusBadGateway)
		return true
	}), `const timeout = setTimeout;
		delays = [], states = [];
		setTimeout = (f, ms) => {
			if (ms > 500) delays.push(ms), states.push(document.querySelector("#state").innerText);
			return timeout(f, ms > 500 ? ms / 20 : ms);
		};`)
	w.expected = "status of 502"
	w.wait("states.join(' ').toLowerCase()", strings.Repeat(" connecting", 5)[1:])
	w.wait("delays.every((ms, i) => ms > 900 && ms < 31_000 && ms !== delays[i - 1])", "true")
}

// TestBrowserDisconnect checks that the page catches up.
func TestBrowserDisconnect(t *testing.T) {
	c := start(t)
	w := open(t, c.URL)
	post(t, c.URL, "Bob", "1")
	w.shows("Bob: 1")
	w.click("#connect")
	w.wait("state()", "disconnected: disconnected | connect")
	post(t, c.URL, "Bob", "2")
	w.keys("#message", "3"+enter)
	w.wait("$('#why').innerText", "Sent. You will see it once you are connected.")
	w.wait("texts('.text')", "1")
	w.click("#connect")
	w.wait("state() + $('#why').innerText", live)
	post(t, c.URL, "Bob", "4")
	w.wait("texts('.text')", "1 | 2 | 3 | 4")
	w.wait("texts('#wire-log').match(/message\":\"[0-9]/g).length", "4") // Each came once.
}

// TestBrowserPresence checks the list of who is here, and the lines about joining and leaving.
func TestBrowserPresence(t *testing.T) {
	crowd := make([]string, 100)
	for i := range crowd {
		crowd[i] = fmt.Sprint("Visitor ", i)
	}
	url, events := feed(t)
	w := open(t, url)
	me := w.eval("$('#name').value")
	const shown = "texts('#here li, #count, #more')"
	events <- "retry: 10\n" + here("Bob", "Cy")
	w.wait(shown, "2 | Bob | Cy | ")
	events <- here(me, "Bob", "Cy", "Dan") + here("Cy", "Dan")
	w.wait("texts('.quiet')", "Dan joined | Bob left")
	events <- ""          // The connection breaks,
	events <- here("Eve") // and the first list after that is not news.
	w.wait(shown, "1 | Eve | ")
	events <- here("Eve", "Flo")
	w.wait("texts('.quiet')", "Dan joined | Bob left | Flo joined")
	events <- strings.Replace(here(crowd...), "100", "121", 1) // A list that is cut short is not
	w.wait(shown, "121 | "+strings.Join(crowd, " | ")+" | and 21 more")
	events <- here("Gil") + here(crowd...)
	w.wait("texts('.quiet')", "Dan joined | Bob left | Flo joined | 100 people joined | Gil left")
	events <- says("2", "Ada", "Hello", "")
	w.shows("Ada: Hello")
	events <- strings.Repeat(here()+here("Bob"), 400) + here("Cy")
	w.wait("texts('.quiet').endsWith('Cy joined | Bob left')", "true")
	w.wait("all('.quiet').length <= 100", "true")
	w.shows("Ada: Hello") // Those who come and go do not push out the messages.
}

// TestBrowserWire checks that the page shows the latest 20 events as the stream carried them.
func TestBrowserWire(t *testing.T) {
	url, events := feed(t)
	w := open(t, url)
	came := []string{strings.TrimSpace(here("Ada")), "event: missed\ndata:\nid: 2"}
	for i := range 20 {
		came = append(came, strings.TrimSpace(says(fmt.Sprint(3+i), "Ada", "<b>", "")))
	}
	for _, n := range []int{10, 22} {
		events <- ":\nretry: 1000\nid: 1\n" + strings.Join(came[max(0, n-12):n], "\n\n") + "\n\n"
		w.wait("$('#wire-count').innerText", fmt.Sprint(n))
		shown := slices.Clone(came[max(0, n-20):n])
		slices.Reverse(shown)
		w.wait("all('#wire-log li').map(e => e.textContent.replace('data: \\n', 'data:\\n'))"+
			".join('\\n\\n')", strings.Join(shown, "\n\n"))
	}
}

// TestBrowserUnread checks that the title has the number of messages that a hidden tab got.
func TestBrowserUnread(t *testing.T) {
	url, events := feed(t)
	w := open(t, url)
	events <- says("1", "Ada", "seen", "")
	w.shows("Ada: seen")
	w.wait("document.title", "Chat")
	w.do("POST", "/window/minimize", dict{}, nil)
	w.wait("document.hidden", "true")
	events <- says("2", "Ada", "one", "") + says("3", "Ada", "two", "")
	w.wait("document.title", "(2) Chat")
	w.do("POST", "/window/rect", dict{"width": 800, "height": 600}, nil)
	w.wait("document.hidden + document.title", "falseChat")
	events <- says("4", "Ada", "three", "")
	w.wait("texts('.text') + document.title", "seen | one | two | threeChat")
}

// TestBrowserScrolling checks that the log follows its newest line, unless older ones are read.
func TestBrowserScrolling(t *testing.T) {
	c := start(t)
	for i := range latestSize {
		c.room.publish(fmt.Sprint("Visitor ", i), "Hello")
	}
	w := open(t, c.URL)
	const follows = `!seen($("#newer")) && seen($("#lines > :last-child")) &&
		Math.abs(box("#log").bottom - box("#lines > :last-child").bottom) < 16`
	w.wait(follows, "true")
	c.room.publish("Ada", "one")
	w.wait("all('[data-id]').length", "201")
	w.wait(follows, "true")
	w.eval("(old = all('[data-id]')[100]).scrollIntoView({ block: 'start' })")
	w.eval("place = old.getBoundingClientRect().top")
	for i := range 350 { // The page has to remove its oldest lines.
		c.room.publish("Bob", fmt.Sprint(i, strings.Repeat(" and", 50)))
	}
	w.wait("$('[data-id]:last-child .text').textContent.startsWith('349 ')", "true")
	w.wait("all('[data-id]').length", "500")
	w.wait("Math.abs(old.getBoundingClientRect().top - place) < 2", "true")
	w.click("#newer")
	w.wait(follows, "true")
	w.eval("$('#lines > *').scrollIntoView()")
	c.room.publish("Bob", "something new")
	w.wait("seen($('#newer'))", "true")
	w.keys("#message", "mine"+enter) // A sender wants to see what was sent.
	w.wait("$('[data-id]:last-child .text').textContent", "mine")
	w.wait(follows, "true")
}

// TestBrowserBurst checks that 3,000 messages at once do not freeze the page.
func TestBrowserBurst(t *testing.T) {
	c := start(t)
	w := open(t, c.URL, `let last = longest = 0;
		requestAnimationFrame(function tick(now) {
			longest = Math.max(longest, now - last);
			last = now;
			requestAnimationFrame(tick);
		});`)
	w.click("#connect") // They are to come all at once.
	w.wait("$('#state').dataset.state", "disconnected")
	for i := range 3000 {
		c.room.publish("Ada", fmt.Sprint(i))
	}
	w.eval("longest = 0")
	w.click("#connect")
	w.wait("$('[data-id]:last-child .text')?.textContent", "2999")
	w.wait("texts('.text') == Array.from({ length: 500 }, (_, i) => 2500 + i).join(' | ')", "true")
	w.wait("$('#wire-count').innerText > 3000 && $('#wire-log').children.length", "20")
	if w.eval("longest < 4000") != "true" {
		t.Errorf("The page froze for %s ms, want less than 4000.", w.eval("longest"))
	}
}

// TestBrowserSmall checks that nothing overflows, and that everything can be reached.
func TestBrowserSmall(t *testing.T) {
	c := start(t)
	w := open(t, c.URL)
	w.rename(strings.Repeat("W", maxName))
	long := strings.Repeat("W", maxMessage)
	for _, text := range []string{"Hi", long, strings.Repeat("\n🙂", 50)} {
		post(t, c.URL, strings.Repeat("M", maxName), text)
		post(t, c.URL, strings.Repeat("W", maxName), text)
	}
	w.wait("all('[data-id]').length", "6")
	w.wait("texts('#here li').includes($('#name').value)", "true")
	w.eval("$('#wire').open = true")
	for _, size := range [][2]int{{320, 640}, {320, 256}, {740, 360}, {1440, 900}} {
		w.devTools("Emulation.setDeviceMetricsOverride", dict{"width": size[0], "height": size[1],
			"deviceScaleFactor": 1, "mobile": false}, nil)
		w.wait("[innerWidth, innerHeight]", fmt.Sprintf("%d,%d", size[0], size[1]))
		w.wait(`["html", "#log", "form", "#wire", "#wire-log"].filter(e =>
			$(e).scrollWidth > $(e).clientWidth + 1)`, "")
		w.wait(`["#state", "#connect", "#count", "#here li", "#here li:last-child", "#wire summary",
			"#wire-log li:last-child", "[data-id] .text", "[data-id]:last-child .text", "#name",
			"#message", "#send"].filter(selector => {
			$(selector).scrollIntoView({ block: "center", inline: "start" });
			return !seen($(selector));
		})`, "")
		w.wait(`all("body, main, #log, aside, #wire, .text").filter(e =>
			e.scrollHeight > e.clientHeight + 1 && /hidden|clip/.test(getComputedStyle(e).overflowY)
		).map(e => e.outerHTML)`, "")
		w.eval("scrollTo(0, 0)")
		w.wait("seen($('#message')) && box('#log').height > 90", "true")
	}
}

// TestBrowserAccessible checks what a screen reader is told.
func TestBrowserAccessible(t *testing.T) {
	w := open(t, start(t).URL)
	w.keys("#message", "Hello"+enter)
	w.wait("texts('.text')", "Hello")
	for _, e := range [][3]string{
		{"#log", "log", "Messages"}, {"#log > ol", "list", ""}, {"#log li", "listitem", ""},
		{"#name", "textbox", "Your name"}, {"#message", "textbox", "Message"},
		{"#send", "button", "Send"}, {"#connect", "button", "Disconnect"},
		{"#state", "status", ""}, {"#why", "alert", ""}, {"#here", "list", "Names"},
	} {
		var role, label string
		w.element("GET", e[0], "/computedrole", dict{}, &role)
		w.element("GET", e[0], "/computedlabel", dict{}, &label)
		equal(t, "The role and label of "+e[0], role+" "+label, e[1]+" "+e[2])
	}
	w.wait("all('#name, #message').map(e => e.labels.length)", "1,1")
	w.wait("document.documentElement.lang", "en")
	var tree any
	w.devTools("Accessibility.getFullAXTree", dict{}, &tree)
	contains(t, "The accessibility tree", fmt.Sprint(tree), "· you") // The message is marked.
}

func TestBrowserWithoutScript(t *testing.T) {
	url, _ := feed(t)
	w := open(t, url)
	w.devTools("Emulation.setScriptExecutionDisabled", dict{"value": true}, nil)
	w.reload()
	w.keys("#message", "Hello"+enter+"again")
	w.click("#send")
	w.wait("texts('.text') + location", "Hello\nagain"+url+"/")
	w.wait("/UTC$/.test(texts('time')) && /reload/i.test(document.body.innerText)", "true")
	// Text browsers show even what is in a template, but not what is in a script.
	page := regexp.MustCompile(`(?s)<(script|style).*?</(script|style)>`).
		ReplaceAllString(read(t, do(t, "GET", url, "", "").Body), "")
	scriptOnly := regexp.MustCompile(`id="(state|connect|here|count|more|wire|newer)"`)
	equal(t, "What is of no use without a script", scriptOnly.FindString(page), "")
}

// HELPERS of the page's tests

// A window is a visitor of its own, because windows do not share sessionStorage. It obeys
// ChromeDriver, whose protocol is JSON over HTTP (https://www.w3.org/TR/webdriver2).
type window struct {
	t        *testing.T
	session  string // the URL of all windows
	Handle   string
	expected string // a pattern for what the test makes the browser complain about
}

type dict map[string]any

// These are WebDriver's names for keys. The last one lets go of the others.
const enter, shift, release = "\uE007", "\uE008", "\uE000"

const live = "live: live | disconnect" // the state of a page, and its button

var endBrowser = func() {} // TestMain calls this after the last test.

// browser starts ChromeDriver and Chromium for all tests, and returns the URL of the session.
var browser = sync.OnceValues(func() (session string, err error) {
	driver := exec.Command("chromedriver", "--port=0")
	stdout, _ := driver.StdoutPipe()
	if err := driver.Start(); err != nil {
		return "", err
	}
	url := ""
	endBrowser = func() {
		webDriver("DELETE", session, dict{}, nil)
		webDriver("GET", url+"/shutdown", dict{}, nil)
		driver.Process.Kill() // in case it has not ended by itself
		driver.Wait()
	}
	for output := bufio.NewScanner(stdout); url == "" && output.Scan(); {
		if _, port, ok := strings.Cut(output.Text(), "started successfully on port "); ok {
			url = "http://127.0.0.1:" + strings.TrimSuffix(port, ".")
		}
	}
	go io.Copy(io.Discard, stdout)
	args := []string{"--headless=new", "--lang=en-US"}
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // Root cannot use the sandbox.
	}
	var made struct{ SessionID string }
	err = webDriver("POST", url+"/session", dict{"capabilities": dict{"alwaysMatch": dict{
		"goog:loggingPrefs": dict{"browser": "ALL"}, "goog:chromeOptions": dict{"args": args},
	}}}, &made)
	session = url + "/session/" + made.SessionID
	return session, err
})

// webDriver sends a command, and decodes what comes of it into result.
func webDriver(method, url string, parameters dict, result any) error {
	body, _ := json.Marshal(parameters)
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Timeout: 3 * patience}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("ChromeDriver answers %.999s to %s %.999s", answer, url, body)
	}
	return json.NewDecoder(resp.Body).Decode(&struct{ Value any }{result})
}

// open opens the page in a new window, where a script may run before the page's own. At the end of
// the test, the browser must have nothing to complain about.
func open(t *testing.T, url string, script ...string) *window {
	t.Helper()
	session, err := browser()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "" {
		t.Skip("The page is not tested here, because ChromeDriver is not installed.")
	} else if err != nil {
		t.Fatal(err)
	}
	w := &window{t: t, session: session}
	w.do("POST", "/window/new", dict{"type": "window"}, w)
	t.Cleanup(func() {
		var console []struct{ Message string }
		w.do("POST", "/se/log", dict{"type": "browser"}, &console)
		for _, line := range console {
			if w.expected == "" || !regexp.MustCompile(w.expected).MatchString(line.Message) {
				t.Errorf("The browser's console says %q.", line.Message)
			}
		}
		var others []string
		w.do("DELETE", "/window", dict{}, &others)
		webDriver("POST", session+"/window", dict{"handle": others[0]}, nil)
	})
	source := dict{"source": strings.Join(script, "")}
	w.devTools("Page.addScriptToEvaluateOnNewDocument", source, nil)
	w.visit(url)
	w.wait("state()", live)
	return w
}

// do sends a command to this window.
func (w *window) do(method, path string, parameters dict, result any) {
	w.t.Helper()
	var err error
	if w.Handle != "" {
		err = webDriver("POST", w.session+"/window", dict{"handle": w.Handle}, nil)
	}
	if err = cmp.Or(err, webDriver(method, w.session+path, parameters, result)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *window) visit(url string)      { w.do("POST", "/url", dict{"url": url}, nil) }
func (w *window) reload()               { w.do("POST", "/refresh", dict{}, nil) }
func (w *window) back()                 { w.do("POST", "/back", dict{}, nil) }
func (w *window) click(selector string) { w.element("POST", selector, "/click", dict{}, nil) }
func (w *window) keys(selector, text string) {
	w.element("POST", selector, "/value", dict{"text": text}, nil)
}

// devTools sends a command of the Chrome DevTools Protocol, for what WebDriver cannot do.
func (w *window) devTools(name string, parameters dict, result any) {
	w.t.Helper()
	w.do("POST", "/goog/cdp/execute", dict{"cmd": name, "params": parameters}, result)
}

// element sends a command to an element of the page.
func (w *window) element(method, selector, path string, parameters dict, result any) {
	w.t.Helper()
	var found map[string]string // one entry, whose key only WebDriver knows
	w.do("POST", "/element", dict{"using": "css selector", "value": selector}, &found)
	for _, id := range found {
		w.do(method, "/element/"+id+path, parameters, result)
	}
}

func (w *window) rename(name string) {
	w.t.Helper()
	w.eval("$('#name').value = ''")
	w.keys("#name", name+enter)
}

// eval returns the value of a JavaScript expression as a string.
func (w *window) eval(expression string) (value string) {
	w.t.Helper()
	w.do("POST", "/execute/sync", dict{"args": []any{}, "script": `
		const $ = selector => document.querySelector(selector);
		const all = selector => [...document.querySelectorAll(selector)];
		const texts = selector => all(selector).map(e => e.textContent.trim()).join(" | ");
		const state = () => $("#state").dataset.state + ": " +
			texts("#state, #connect").toLowerCase();
		const box = selector => $(selector).getBoundingClientRect();
		const seen = (e, b = e.getBoundingClientRect()) => e.contains(document.elementFromPoint(
			b.left + Math.min(b.width / 2, 20), b.top + b.height / 2));
		const linesTall = (e = $("#message"), s = getComputedStyle(e)) => Math.round((e.clientHeight
			- parseFloat(s.paddingTop) - parseFloat(s.paddingBottom)) / parseFloat(s.lineHeight));
		const messages = () => all("[data-id]").map(li => li.querySelector(".name").textContent +
			": " + li.querySelector(".text").textContent).join(" | ");
		try {
			return String(` + expression + `);
		} catch (error) {
			return String(error);
		}`}, &value)
	return value
}

// wait waits until a JavaScript expression has a value.
func (w *window) wait(expression, want string) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		got := w.eval(expression)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s is still\n%.999q, want\n%.999q.", expression, got, want)
		}
	}
}

// shows waits until the page shows exactly these messages.
func (w *window) shows(messages ...string) {
	w.t.Helper()
	w.wait("messages()", strings.Join(messages, " | "))
}

// front starts a server in front of a chat. It passes on what handle returns false for.
func front(t *testing.T, handle func(w http.ResponseWriter, req *http.Request) bool) (url string) {
	chat, _ := newRoom().handler("")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !handle(w, req) {
			chat.ServeHTTP(w, req)
		}
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL
}

// feed starts a chat whose stream carries what the test sends, and ends after an empty string.
func feed(t *testing.T) (url string, events chan<- string) {
	sent := make(chan string, 100)
	return front(t, func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != "/events" {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for text := ":\n"; text != ""; {
			io.WriteString(w, strings.ReplaceAll(text, "AFTER", req.FormValue("after")))
			http.NewResponseController(w).Flush()
			select {
			case text = <-sent:
			case <-req.Context().Done():
				text = ""
			}
		}
		return true
	}), sent
}

// says returns an event that is a message. The time may be left out.
func says(id, name, text, time string) string {
	time = cmp.Or(time, "2026-11-20T12:00:00Z")
	return fmt.Sprintf("data: {\"name\":%q,\"message\":%q,\"time\":%q}\nid: %s\n\n",
		name, text, time, id)
}

// here returns an event that says who is here.
func here(names ...string) string {
	return "event: users\ndata: " + users(names...) + "\nid: 1\n\n"
}

// THE README

// TestReadme checks what the README says about the program, in whatever words it says it.
func TestReadme(t *testing.T) {
	content, err := os.ReadFile("README.md")
	ok(t, err)
	readme := string(content)
	t.Run("transcript", func(t *testing.T) {
		url := start(t).URL
		steps := strings.Split("\n"+block(readme, "console"), "\n$ ")[1:]
		if len(steps) < 4 {
			t.Errorf("There are %d commands, want at least 4.", len(steps))
		}
		varying := regexp.MustCompile(
			`\r|(?m:(^Date: ).*|(^retry: )\d{4}$|(^id: )\d{16}$)|("time":")[^"]*Z`)
		for _, step := range steps {
			command, want, _ := strings.Cut(step, "\n")
			got := curl(t, url, command)
			replace := func(s string) string { return varying.ReplaceAllString(s, "$1$2$3$4") }
			got, want = strings.TrimSpace(replace(got)), strings.TrimSpace(replace(want))
			equal(t, "The output of "+command, got, want)
		}
	})
	t.Run("small version", func(t *testing.T) {
		tests, err := os.ReadFile("server_test.go")
		code := block(readme, "go")
		if err != nil || len(code) < 500 || !strings.Contains(string(tests), code) {
			t.Errorf("This code is not in server_test.go (%v):\n%s", err, code)
		}
	})
	t.Run("limits", func(t *testing.T) {
		values := map[string]any{
			"`historySize`": historySize, "`latestSize`": latestSize, "`maxMessage`": maxMessage,
			"`maxName`": maxName, "`maxBody`": maxBody, "`maxListed`": maxListed,
			"`heartbeat`": heartbeat, "`readTimeout`": readTimeout, "`writeTimeout`": writeTimeout,
			"`shutdownTimeout`": shutdownTimeout, "`returnTime`": returnTime,
		}
		for _, row := range table(t, readme, "constant", 4) {
			got := strings.NewReplacer(",", "", " s", "s").Replace(row[1])
			equal(t, "The value of "+row[0], got, fmt.Sprint(values[row[0]]))
		}
	})
	t.Run("answers", func(t *testing.T) {
		c := start(t)
		long := "message=" + strings.Repeat("x", maxMessage+1)
		given := make(map[string][]string)
		for _, request := range [][]string{
			{"GET", "/", "", "", ""},
			{"POST", "/message", formType, "message=hi", ""},
			{"POST", "/message", jsonType, `{"message":"hi"}`, ""},
			{"POST", "/message", formType, "", ""},
			{"POST", "/message", formType, "message=hi", "cross-site"},
			{"POST", "/message", formType, long, ""},
			{"POST", "/message", "text/plain", "hi", ""},
			{"GET", "/events", "", "", ""},
			{"GET", "/events", "", "", "cross-site"},
			{"GET", "/events", "", "body", ""},
		} {
			method, path := request[0], request[1]
			resp := do(t, method, c.URL+path, request[2], request[3], "Sec-Fetch-Site: "+request[4])
			name := fmt.Sprintf("`%s %s`", method, path)
			given[name] = append(given[name], strconv.Itoa(resp.StatusCode))
		}
		for _, row := range table(t, readme, "request", len(given)) {
			got := regexp.MustCompile(`\b\d{3}\b`).FindAllString(row[1], -1)
			slices.Sort(got)
			slices.Sort(given[row[0]])
			equal(t, "What "+row[0]+" is answered with",
				fmt.Sprint(slices.Compact(got)), fmt.Sprint(given[row[0]]))
		}
	})
}

// curl runs a command of the README on the chat at url, and returns what it prints.
func curl(t *testing.T, url, command string) string {
	t.Helper()
	for _, program := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(program); err != nil && os.Getenv("CI") == "" {
			t.Skip(err)
		}
	}
	here := strings.ReplaceAll(command, "localhost:3000", strings.TrimPrefix(url, "http://"))
	output, _ := exec.Command("sh", "-c", here).Output() // A stream ends with an error: -m 0.5.
	return string(output)
}

// block returns the first block of code in a language.
func block(readme, language string) string {
	_, code, _ := strings.Cut(readme, "\n```"+language+"\n")
	code, _, _ = strings.Cut(code, "\n```\n")
	return code
}

// table returns the rows of the table that begins with a column, which has at least n.
func table(t *testing.T, readme, column string, n int) (rows [][]string) {
	t.Helper()
	_, rest, _ := strings.Cut(readme, "\n| "+column+" |")
	rest, _, _ = strings.Cut(rest, "\n\n")
	for i, line := range strings.Split(rest, "\n") {
		if i >= 2 { // The first two are the heads and a rule.
			rows = append(rows, strings.Split(strings.Trim(line, "| "), " | "))
		}
	}
	if len(rows) < n {
		t.Errorf("The table %q has %d rows, want at least %d.", column, len(rows), n)
	}
	return rows
}

// HELPERS

// TestMain lets the test binary be a server in a process of its own: ours, or the floor.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("SSECHAT_MAIN") != "":
		go tellMemory()
		main()
	case os.Getenv("SSECHAT_FLOOR") != "":
		runFloor()
	default:
		log.SetOutput(io.Discard) // net/http would log the broken connections.
		status := m.Run()
		endBrowser()
		os.Exit(status)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// equal reports if got is not want.
func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if _, isString := any(got).(string); isString && got != want {
		t.Errorf("%s is\n%.9999q, want\n%.9999q.", what, any(got), any(want))
	} else if got != want {
		t.Errorf("%s is %+v, want %+v.", what, got, want)
	}
}

// contains reports if want is not in got.
func contains(t testing.TB, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s is\n%.9999q, want\n%q in it.", what, got, want)
	}
}

// same reports the first message that somebody got and that is not the one to get.
func same(t testing.TB, who string, got, want []said) {
	t.Helper()
	equal(t, "The number of messages for "+who, len(got), len(want))
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("Message %d of %s is %+v, want %+v.", i, who, got[i], want[i])
		}
	}
}

// patience is how long a test waits for anything. In a bubble, waiting costs nothing.
var patience = 10 * time.Second

// A chat is a server that a test has started.
type chat struct {
	URL     string
	room    *room
	network *network // in a bubble
	stop    func()   // ends it as ^C does, and waits until it has ended
}

// start starts a chat, which ends with the test.
func start(t testing.TB) *chat {
	t.Helper()
	return startOn(t, listen(t, "127.0.0.1:0"), "")
}

// startOn starts a chat on a listener, with a value for -origin.
func startOn(t testing.TB, listener net.Listener, origin string) *chat {
	t.Helper()
	room := newRoom()
	handler, err := room.handler(origin)
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, listener, handler) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			equal(t, "The error at the end of the server", err, nil)
		case <-time.After(patience):
			t.Errorf("The server has not ended after %v.", patience)
		}
	})
	t.Cleanup(stop)
	return &chat{URL: "http://" + listener.Addr().String(), room: room, stop: stop}
}

// listen listens on a real socket.
func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	ok(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener
}

// bubble runs a test with a chat, and with a clock that jumps ahead whenever everybody waits. The
// connections are in memory and have no buffers: a write waits until the other side reads.
func bubble(t *testing.T, test func(t *testing.T, c *chat)) {
	t.Helper()
	bubbleWith(t, func(t testing.TB, l net.Listener) *chat { return startOn(t, l, "") }, test)
}

// bubbleWith is bubble with another chat.
func bubbleWith(t *testing.T, start func(testing.TB, net.Listener) *chat,
	test func(t *testing.T, c *chat)) {
	t.Helper()
	stuck := time.AfterFunc(2*patience, func() { // A machine may be slow.
		panic(t.Name() + " waits for something other than time, perhaps for a mutex.")
	})
	defer stuck.Stop()
	defer func(p time.Duration, c *http.Client) { patience, client = p, c }(patience, client)
	patience = time.Hour
	synctest.Test(t, func(t *testing.T) {
		n := &network{accepted: make(chan net.Conn)}
		client = newClient(n.dial)
		t.Cleanup(client.CloseIdleConnections)
		c := start(t, n)
		c.network = n
		test(t, c)
	})
}

// A network has connections in memory, and counts what the server writes to them.
type network struct {
	accepted chan net.Conn
	writes   atomic.Int64
}

type networkConn struct {
	net.Conn
	network *network
}

func (c networkConn) Write(p []byte) (int, error) {
	c.network.writes.Add(1)
	return c.Conn.Write(p)
}

func (n *network) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	n.accepted <- networkConn{server, n}
	return client, nil
}

func (n *network) Accept() (net.Conn, error) {
	if conn, ok := <-n.accepted; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (n *network) Close() error   { close(n.accepted); return nil }
func (n *network) Addr() net.Addr { return &net.UnixAddr{Name: "bubble"} }

var client = newClient(new(net.Dialer).DialContext)

// newClient returns a client that does not follow redirects.
func newClient(dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 10},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

// dial opens a connection, for what a client of net/http cannot do.
func dial(t testing.TB, url string) net.Conn {
	t.Helper()
	dial := client.Transport.(*http.Transport).DialContext
	conn, err := dial(context.Background(), "tcp", strings.TrimPrefix(url, "http://"))
	ok(t, err)
	conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// do sends a request, with headers such as "Origin: null". A header without a value is left out.
func do(t testing.TB, method, url, kind, body string, header ...string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	t.Cleanup(func() { cancel(nil) })
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	ok(t, err)
	for _, line := range append(header, "Content-Type: "+kind) {
		if key, value, _ := strings.Cut(line, ": "); value != "" {
			req.Header.Set(key, value)
		}
	}
	giveUp := func() { cancel(fmt.Errorf("nothing came for %v", patience)) }
	timer := time.AfterFunc(patience, giveUp)
	defer timer.Stop()
	resp, err := client.Do(req)
	ok(t, err)
	resp.Body = &patientBody{resp.Body, giveUp}
	return resp
}

// A patientBody is a body that ends with an error when nothing comes for too long.
type patientBody struct {
	io.ReadCloser
	giveUp func()
}

func (b *patientBody) Read(p []byte) (int, error) {
	timer := time.AfterFunc(patience, b.giveUp)
	defer timer.Stop()
	return b.ReadCloser.Read(p)
}

// read reads everything.
func read(t testing.TB, from io.Reader) string {
	t.Helper()
	content, err := io.ReadAll(from)
	if err != nil {
		t.Fatalf("After %.999q comes the error %v.", content, err)
	}
	return string(content)
}

// lines reads n lines.
func lines(t testing.TB, from *bufio.Reader, n int) (all string) {
	t.Helper()
	for range n {
		line, err := from.ReadString('\n')
		all += line
		if err != nil {
			t.Fatalf("After %.999q comes the error %v.", all, err)
		}
	}
	return all
}

// post posts a message that is accepted.
func post(t testing.TB, url, name, text string) {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"name": name, "message": text})
	resp := do(t, "POST", url+"/message", jsonType, string(body))
	if answer := read(t, resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("A post is answered with %s: %s", resp.Status, answer)
	}
}

// users returns the data of a users event.
func users(names ...string) string {
	list, _ := json.Marshal(append([]string{}, names...))
	return fmt.Sprintf(`{"count":%d,"names":%s}`, len(names), list)
}

// said is a message as a reader gets it.
type said struct {
	ID   int64     `json:"-"`
	Name string    `json:"name"`
	Text string    `json:"message"`
	Time time.Time `json:"time"`
}

// A reader reads a stream. It is stricter than the HTML standard (section 9.2.6), because it
// accepts only what this server is meant to write.
type reader struct {
	t     testing.TB
	body  io.ReadCloser
	lines *bufio.Reader
	retry int
	id    string   // of the last event
	here  []string // the data of users events that nobody has asked for yet
}

type event struct {
	kind string
	id   int64
	data string
}

// subscribe opens a stream, and reads its first event.
func subscribe(t testing.TB, url, query string, header ...string) *reader {
	t.Helper()
	resp := do(t, "GET", url+"/events"+query, "", "", header...)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("A stream is answered with %s.", resp.Status)
	}
	r := &reader{t: t, body: resp.Body, lines: bufio.NewReader(resp.Body)}
	_, err := fmt.Fscanf(r.lines, "retry: %d\nid: %s\n", &r.retry, &r.id)
	first, readErr := r.read()
	if err != nil || readErr != nil || first.kind != "users" {
		t.Fatalf("The first event is %+v (%v, %v), want users.", first, err, readErr)
	}
	r.here = []string{first.data}
	return r
}

var eventPattern = regexp.MustCompile(
	`^(?:event: (users|missed)\n)?data:(?: (\{[^\r]*\}))?\nid: (\d+)\n\n$`)

// read returns the next event, or the error with which the stream ends.
func (r *reader) read() (event, error) {
	block := ""
	for block == "" || !strings.HasSuffix(block, "\n\n") {
		line, err := r.lines.ReadString('\n')
		if err != nil && block+line == "" {
			return event{}, err
		} else if err != nil {
			return event{}, fmt.Errorf("%w after %q", err, block+line)
		}
		if block != "" || line != ":\n" {
			block += line
		}
	}
	parts := eventPattern.FindStringSubmatch(block)
	if parts == nil || !utf8.ValidString(block) {
		return event{}, fmt.Errorf("%q is not an event of this server", block)
	}
	last, _ := strconv.ParseInt(r.id, 10, 64)
	id, err := strconv.ParseInt(parts[3], 10, 64)
	e := event{parts[1], id, parts[2]}
	isNext := id > last
	switch e.kind {
	case "users":
		isNext = id == last
	case "missed":
		isNext = id != last
	}
	if err != nil || !isNext || (e.data == "") != (e.kind == "missed") {
		return e, fmt.Errorf("%q cannot come after the id %d", block, last)
	}
	r.id = parts[3]
	return e, nil
}

// end reads to the end of the stream, and returns the error with which it ends.
func (r *reader) end() error {
	for {
		if _, err := r.read(); err != nil {
			return err
		}
	}
}

func (r *reader) close() { r.body.Close() }

// next returns the next event other than users.
func (r *reader) next() event {
	r.t.Helper()
	for {
		e, err := r.read()
		if err != nil {
			r.t.Fatalf("Instead of an event comes the error %v.", err)
		}
		if e.kind != "users" {
			return e
		}
		r.here = append(r.here, e.data)
	}
}

// messages returns the next n events, which are messages.
func (r *reader) messages(n int) (all []said) {
	r.t.Helper()
	for i := range n {
		e := r.next()
		m := said{ID: e.id}
		if err := json.Unmarshal([]byte(e.data), &m); err != nil || e.kind != "" {
			r.t.Fatalf("Event %d of %d is %+v, want a message.", i+1, n, e)
		}
		all = append(all, m)
	}
	return all
}

// users returns the data of the next users event.
func (r *reader) users() string {
	r.t.Helper()
	if len(r.here) == 0 {
		e, err := r.read()
		if err != nil || e.kind != "users" {
			r.t.Fatalf("The next event is %+v with the error %v, want users.", e, err)
		}
		return e.data
	}
	data := r.here[0]
	r.here = r.here[1:]
	return data
}

// A process is a server in a process of its own.
type process struct {
	cmd *exec.Cmd
	url string
	in  io.Writer
	out io.Reader
}

// command returns a command that runs this test binary as something else.
func command(t testing.TB, env string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), env)
	return cmd
}

// launch starts a process, and waits until it says where it is.
func launch(t testing.TB, env string, args ...string) *process {
	t.Helper()
	p := &process{cmd: command(t, env, args...)}
	stderr, _ := p.cmd.StderrPipe()
	p.out, _ = p.cmd.StdoutPipe()
	p.in, _ = p.cmd.StdinPipe()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	line, _ := bufio.NewReader(stderr).ReadString('\n')
	_, p.url, _ = strings.Cut(strings.TrimSpace(line), " at ")
	contains(t, "The address that the process says", p.url, "http://")
	return p
}

// BENCHMARKS

// Servers are processes of their own, so that their CPU time is known. The floor is the fastest
// thing with the same interface: a loop that writes each message to each connection.
const ours, floor = "SSECHAT_MAIN=1", "SSECHAT_FLOOR=1"

// BenchmarkBurst posts to 1,000 readers as fast as possible.
func BenchmarkBurst(b *testing.B) {
	l := load{readers: 1000, messages: 500}
	for b.Loop() {
		chat, least := l.run(b, ours).took, l.run(b, floor).took
		b.ReportMetric(float64(chat)/float64(l.readers*l.messages), "ns/delivery")
		b.ReportMetric(float64(least)/float64(l.readers*l.messages), "floor-ns/delivery")
		b.ReportMetric(float64(least)/float64(chat), "x-floor")
	}
}

// BenchmarkPaced posts 50 messages a second to 1,000 readers.
func BenchmarkPaced(b *testing.B) {
	l, idle := load{readers: 1000, messages: 200, pace: 20 * time.Millisecond}, load{readers: 1000}
	for b.Loop() {
		chat := l.run(b, ours).cpu - idle.run(b, ours).cpu
		least := l.run(b, floor).cpu - idle.run(b, floor).cpu
		b.ReportMetric(float64(chat)/float64(l.readers*l.messages), "CPU-ns/delivery")
		b.ReportMetric(float64(chat)/float64(least), "x-floor-CPU")
	}
}

// BenchmarkIdle measures what 10,000 readers cost while nobody says anything.
func BenchmarkIdle(b *testing.B) {
	for b.Loop() {
		p := launch(b, ours, "-addr", "127.0.0.1:0")
		var before, after int
		fmt.Fprintln(p.in)
		fmt.Fscanln(p.out, &before)
		streams := load{readers: 10_000}.connect(b, p.url)
		fmt.Fprintln(p.in)
		fmt.Fscanln(p.out, &after)
		b.ReportMetric(float64(after-before)/float64(len(streams)), "B/reader")
		p.end(streams)
	}
}

// tellMemory prints the bytes that this process uses whenever it gets a line.
func tellMemory() {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Println(m.HeapInuse + m.StackInuse)
	}
}

// BenchmarkStalled posts 8 KB at a time, without and with readers who accept nothing.
func BenchmarkStalled(b *testing.B) {
	l := load{readers: 100, messages: 700, size: 8000, pace: 10 * time.Millisecond}
	for b.Loop() {
		l.stalled = 0
		alone := l.run(b, ours).p99
		l.stalled = 50
		beside := l.run(b, ours).p99
		b.ReportMetric(alone.Seconds()*1000, "p99-ms")
		b.ReportMetric(float64(beside)/float64(alone), "x-p99")
	}
}

// BenchmarkReturn lets 10,000 readers come back at once after a restart.
func BenchmarkReturn(b *testing.B) {
	for kind, query := range map[string]string{"nameless": "", "named": "?name="} {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				p := launch(b, ours, "-addr", "127.0.0.1:0")
				begun := time.Now()
				streams := load{readers: 10_000, query: query}.connect(b, p.url)
				b.ReportMetric(time.Since(begun).Seconds(), "s/all")
				p.end(streams)
			}
		})
	}
}

// A load is what a server has to do in a benchmark.
type load struct {
	readers, stalled, messages, size int
	pace                             time.Duration // between two messages
	query                            string        // of the readers; their numbers are added
}

type result struct{ took, cpu, p99 time.Duration }

// run starts a server and measures it. What has not come after a minute is an error.
func (l load) run(b *testing.B, server string) (got result) {
	p := launch(b, server, "-addr", "127.0.0.1:0")
	streams := l.connect(b, p.url)
	poster := dial(b, p.url)
	poster.SetDeadline(time.Now().Add(time.Minute))
	go io.Copy(io.Discard, poster) // the answers
	body := `{"name":"Ada","message":"` + strings.Repeat("🙂", max(l.size/4, 6)) + `"}`
	request := fmt.Sprintf("POST /message HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n"+
		"Content-Length: %d\r\n\r\n%s", jsonType, len(body), body)
	begun := time.Now()
	due := func(i int) time.Time { return begun.Add(time.Duration(i) * l.pace) }
	waits := make([][]time.Duration, l.readers)
	sums := make([]uint32, l.readers) // If all get the same in the same order, these are equal.
	var wg sync.WaitGroup
	for i, stream := range streams[:l.readers] {
		wg.Go(func() {
			buf := make([]byte, 16<<10)
			for lines := 0; len(waits[i]) < l.messages; {
				n, err := stream.body.Read(buf)
				if err != nil {
					b.Errorf("After %d messages, a reader gets the error %v.", len(waits[i]), err)
					return
				}
				lines += bytes.Count(buf[:n], []byte("\n"))
				sums[i] = crc32.Update(sums[i], crc32.IEEETable, buf[:n])
				for len(waits[i]) < lines/3 { // A message has three lines.
					waits[i] = append(waits[i], time.Since(due(len(waits[i]))))
				}
			}
		})
	}
	for i := range l.messages {
		time.Sleep(time.Until(due(i)))
		io.WriteString(poster, request)
	}
	wg.Wait()
	got.took = time.Since(begun)
	equal(b, "What the readers got", slices.Max(sums), slices.Min(sums))
	if all := slices.Sorted(slices.Values(slices.Concat(waits...))); len(all) > 0 {
		got.p99 = all[len(all)*99/100]
	}
	got.cpu = p.end(streams)
	return got
}

// An openStream is a response of which the first event has been read.
type openStream struct {
	net.Conn
	body *bufio.Reader
}

// connect opens all streams of a load, a hundred at a time.
func (l load) connect(b *testing.B, url string) []openStream {
	streams := make([]openStream, l.readers+l.stalled)
	var wg sync.WaitGroup
	for first := range 100 {
		wg.Go(func() {
			for i := first; i < len(streams); i += 100 {
				query := l.query
				if query != "" {
					query += strconv.Itoa(i)
				}
				conn := dial(b, url)
				conn.SetDeadline(time.Now().Add(time.Minute))
				fmt.Fprintf(conn, "GET /events%s HTTP/1.1\r\nHost: x\r\n\r\n", query)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				ok(b, err)
				streams[i] = openStream{conn, bufio.NewReader(resp.Body)}
				lines(b, streams[i].body, 6)
			}
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return streams
}

// end ends the process, and returns its CPU time.
func (p *process) end(streams []openStream) time.Duration {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	for _, stream := range streams {
		stream.Close()
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// runFloor is the process of the floor.
func runFloor() {
	const first = "retry: 1000\nid: 1\nevent: users\ndata: {\"count\":0,\"names\":[]}\nid: 1\n\n"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	log.Print("The floor is at http://", listener.Addr())
	var readers []net.Conn
	for err == nil {
		var conn net.Conn
		conn, err = listener.Accept()
		requests := bufio.NewReader(conn)
		req, end := http.ReadRequest(requests)
		if end == nil && req.Method == "GET" {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n",
				len(first), first)
			readers = append(readers, conn)
			continue
		}
		for ; end == nil; req, end = http.ReadRequest(requests) {
			body, _ := io.ReadAll(req.Body)
			event := fmt.Sprintf("data: %s\nid: 1\n\n", body)
			chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(event), event)
			for _, reader := range readers {
				reader.Write(chunk)
			}
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	}
	log.Fatal(err)
}
