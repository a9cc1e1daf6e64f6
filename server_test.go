package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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

// TestTwoTabs is the demo: one tab posts, both receive, and one that opens later sees the same.
func TestTwoTabs(t *testing.T) {
	c := start(t)
	resp := do(t, "GET", c.URL+"/events?name=Ada", "", "")
	bob := subscribe(t, c.URL, "")
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
	before := time.Now().Truncate(time.Microsecond)
	answer := read(t, do(t, "POST", c.URL+"/message", jsonType, `{"message":"Hi,\nall"}`).Body)
	m := bob.messages(1)[0]
	equal(t, "Ada's event", lines(t, body, 3), fmt.Sprintf("data: %sid: %d\n\n", answer, m.ID))
	equal(t, "A later tab", fmt.Sprint(subscribe(t, c.URL, "").messages(1)), fmt.Sprintf("[%v]", m))
	equal(t, "The time", m.Time, time.UnixMicro(m.ID).UTC())
	if m.Time.Before(before) || m.Time.After(time.Now()) {
		t.Errorf("The time is %v, want one between %v and now.", m.Time, before)
	}
}

// TestPage checks that the page shows the latest messages without JavaScript, and only as text.
func TestPage(t *testing.T) {
	c := start(t)
	for i := range latestSize + 1 {
		c.room.publish("<i>Ada", fmt.Sprintf("<script>number %d.", i))
	}
	resp := do(t, "GET", c.URL+"/", "", "")
	page := read(t, resp.Body) // as it is after the redirect
	latest := subscribe(t, c.URL, "").messages(latestSize)
	contains(t, "The page", page, fmt.Sprintf(` data-after="%d"`, latest[latestSize-1].ID))
	var got, want string
	for i, m := range latest {
		want += fmt.Sprintf("%d: %d.\n", m.ID, i+1)
	}
	pattern := `(?s) data-id="(\d+)".*?&lt;i&gt;Ada.*?&lt;script&gt;number (\d+\.)`
	for _, shown := range regexp.MustCompile(pattern).FindAllStringSubmatch(page, -1) {
		got += shown[1] + ": " + shown[2] + "\n"
	}
	equal(t, "What the page shows", got, want)
	nonce := between(page, `<script nonce="`, `"`)
	contains(t, "The page", page, `<style nonce="`+nonce+`"`)
	equal(t, "Cache-Control", resp.Header.Get("Cache-Control"), "no-store")
	equal(t, "Content-Security-Policy", resp.Header.Get("Content-Security-Policy"),
		strings.ReplaceAll("default-src 'none'; script-src 'nonce-X'; style-src 'nonce-X'; "+
			"connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "+
			"frame-ancestors 'none'", "X", nonce))
	again := read(t, do(t, "GET", c.URL+"/", "", "").Body)
	equal(t, "The number of uses of an old nonce", strings.Count(again, nonce), 0)
}

// TestResume checks where a reader resumes, and when it is told that it may have missed something.
func TestResume(t *testing.T) {
	c := start(t)
	var all []message
	for i := range historySize + 2 { // Over HTTP, this would take several seconds.
		all = append(all, c.room.publish("", fmt.Sprint(i)))
	}
	id := func(i int) string { return fmt.Sprint(all[i].ID) }
	_, end := c.room.log.after(all[1].ID)
	events, _ := c.room.log.after(end) // They are at the start of an array.
	equal(t, "The size of a write, in KB", (len(events)+512)>>10, arraySize>>10)
	newest, latest := len(all)-1, len(all)-latestSize
	tests := []struct {
		name, query, header string
		missed              bool
		first               int // the message from which the reader resumes
	}{
		{"no id", "", "", false, latest},
		{"an id in the header", "", id(5000), false, 5001},
		{"an id in the query", "?after=" + id(7000), "", false, 7001},
		{"both, and the header wins", "?after=" + id(7000), id(5000), false, 5001},
		{"the newest id", "", id(newest), false, newest + 1},
		{"not a number", "?after=no%00id", "", false, latest},
		{"a negative number", "", "-1", false, latest},
		{"the last id that is not kept", "", id(1), false, 2},
		{"an older id", "", id(0), true, 2},
		{"an id from the future", "", fmt.Sprint(all[newest].ID + 1), true, latest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			reader := subscribe(t, c.URL, test.query, "Last-Event-ID: "+test.header)
			if test.missed { // The reader keeps its old id until it gets this event.
				equal(t, "The id before missed", reader.id, test.header)
				equal(t, "The list", reader.read().data, users())
				equal(t, "The event", reader.read(), event{"missed", all[test.first-1].ID, ""})
			}
			got := reader.messages(len(all) - test.first)
			equal(t, "What the reader gets", fmt.Sprint(got), fmt.Sprint(all[test.first:]))
		})
	}
}

// TestUsers checks who is listed as here, and when.
func TestUsers(t *testing.T) {
	bubble(t, startOn, func(t *testing.T, c *chat) {
		watcher := subscribe(t, c.URL, "?name=+")
		told := func(reader *reader, after time.Duration, want ...string) {
			t.Helper()
			begun := time.Now()
			equal(t, "The list", reader.read().data, users(want...))
			equal(t, "The time until the event", time.Since(begun).Round(time.Millisecond), after)
		}
		told(watcher, 0)
		subscribe(t, c.URL, "").close() // It is listed neither now nor later.
		ada := subscribe(t, c.URL, "?name=Ada")
		told(ada, 0, "Ada")
		told(watcher, 0, "Ada") // at once, because nothing was announced in the last second

		// What happens within a second is announced together.
		time.Sleep(announcePause / 4)
		bob := subscribe(t, c.URL, "?name=%20Bob%0D%0A")
		told(bob, 0, "Ada")
		subscribe(t, c.URL, "?name=Bob")
		subscribe(t, c.URL, "?name=Cy").close()
		told(watcher, announcePause*3/4, "Ada", "Bob", "Cy")
		told(bob, 0, "Ada", "Bob", "Cy")
		told(watcher, returnTime-announcePause*3/4, "Ada", "Bob") // Cy has not come back.

		// Ada reloads the page, and Bob closes one of his two tabs: nobody has left.
		time.Sleep(2 * returnTime)
		bob.close()
		ada.close()
		time.Sleep(returnTime - time.Millisecond)
		subscribe(t, c.URL, "?name=Ada")
		time.Sleep(2 * returnTime)
		subscribe(t, c.URL, "?name=Dee")
		told(watcher, 0, "Ada", "Bob", "Dee")
	})
}

// WHAT IT WITHSTANDS

// TestPosts checks what readers get of a post, and what its sender is told if it is refused.
func TestPosts(t *testing.T) {
	const malformed = "The form or JSON is malformed or incomplete.\n"
	const wrongName = "A name must be one line of at most 50 characters.\n"
	name, most := strings.Repeat("é", 50), strings.Repeat("🙂", 2000)
	escaped, padded := url.QueryEscape(most), "message=a&x="+strings.Repeat("x", maxBody-12)
	type postTest struct {
		label, kind, body string
		status            int
		want              string // the name and the text as readers get them, or the refusal
	}
	tests := []postTest{
		{"form with a blank name", formType, "name=+%0A&message=hi", 302, "guest: hi"},
		{"form", formType + "; charset=UTF-8", "name=+Ada%0D&message=%0A+a+%0D%0A", 302, "Ada: a"},
		{"line breaks", formType, "message=a%0D%0Ab%0Dc%0A%0Dd", 302, "guest: a\nb\nc\n\nd"},
		{"not UTF-8", formType, "name=%FE&message=a%FFb", 302, "\uFFFD: a\uFFFDb"},
		{"longest message", formType, "message=+" + escaped + "+", 302, "guest: " + most},
		{"longest name", formType, "message=a&name=" + name, 302, name + ": a"},
		{"largest body", formType, padded, 302, "guest: a"},
		{"JSON", "Application/JSON; a=b", `{"name":"Ada","message":"hi"}`, 200, "Ada: hi"},

		{"blank message", formType, "message=+%0A%E2%80%A8", 400, "The message is blank.\n"},
		{"bad escape", formType, "message=%zz", 400, malformed},
		{"JSON and an extra brace", jsonType, `{"message":"hi"}}`, 400, malformed},
		{"JSON number", jsonType, `{"message":1}`, 400,
			"Send a JSON object whose name and message are strings.\n"},
		{"message too long", formType, "message=" + escaped + "x", 413,
			"A message is limited to 2000 characters.\n"},
		{"large form", formType, padded + "x", 413, "A post is limited to 65536 bytes.\n"},
		{"large JSON", jsonType, padded + "x", 413, "A post is limited to 65536 bytes.\n"},
		{"large file", "image/png", padded + "x", 415, "Send a URL-encoded form or JSON.\n"},
		{"name too long", formType, "message=a&name=x" + name, 400, wrongName},
	}
	for _, end := range []string{"%0A", "%0D", "%0B", "%0C", "\u0085", "\u2028", "\u2029"} {
		body := "message=a&name=b" + end + "c"
		tests = append(tests, postTest{"line break in the name", formType, body, 400, wrongName})
	}
	c := start(t)
	reader := subscribe(t, c.URL, "")
	for _, test := range tests {
		t.Run(test.label, func(t *testing.T) {
			resp := do(t, "POST", c.URL+"/message?message=query;%zz", test.kind, test.body)
			got := read(t, resp.Body)
			equal(t, "The status", resp.StatusCode, test.status)
			equal(t, "Location", resp.Header.Get("Location"), map[int]string{302: "/"}[test.status])
			if test.status < 400 {
				m := reader.messages(1)[0]
				got = m.Name + ": " + m.Text
			}
			equal(t, "The message or the answer", got, test.want)
		})
	}
	post(t, c.URL, "", "last")
	equal(t, "The last message", reader.messages(1)[0].Text, "last")
	body, before := `{"message":"a`+strings.Repeat(" ", maxBody-20)+`"}`, memory()
	for range 100 {
		read(t, do(t, "POST", c.URL+"/message", jsonType, body).Body)
	}
	equal(t, "How many half bodies a message keeps", (memory()-before)/100/(len(body)/2), 0)
}

// FuzzPost checks that whatever is posted, what is accepted arrives as exactly one message.
func FuzzPost(f *testing.F) {
	for _, text := range []string{"hello", "a\r\nb\rc\n", "\ndata: x\n\nid: 7\n\n", ":\n", "%0A+",
		"\u2028\u0085\v\f", "\xff\xfe", "\x00", "\uFEFF", `\u000a</script>`, `\ud800`} {
		f.Add(false, url.Values{"name": {text}, "message": {text}}.Encode())
		f.Add(true, `{"message":"`+text+`"}`)
	}
	c := start(f)
	last := ""
	f.Fuzz(func(t *testing.T, isJSON bool, body string) {
		reader := subscribe(t, c.URL, "?after="+last)
		kind := map[bool]string{false: formType, true: jsonType}[isJSON]
		resp := do(t, "POST", c.URL+"/message", kind, body)
		post(t, c.URL, "", "the end")
		if resp.StatusCode < 400 {
			reader.messages(1)
		}
		equal(t, "The next message", reader.messages(1)[0].Text, "the end")
		last = reader.id
		equal(t, "Whether the answer is a server error", resp.StatusCode >= 500, false)
	})
}

// TestRequests checks who can read and post: our page, programs, and pages from the -origin.
func TestRequests(t *testing.T) {
	const app, evil = "https://app.example", "https://evil.example"
	const otherOrigin = "A page from another origin may not do this.\n"
	plain, forApp := start(t), startOn(t, listen(t, "127.0.0.1:0"), app)
	tests := []struct {
		request, site, origin string // Browsers send the last two as Sec-Fetch-Site and Origin.
		status, statusForApp  int
		answer                string
	}{
		{"GET /events", "", "", 200, 200, ""}, // curl
		{"GET /events", "same-origin", "", 200, 200, ""},
		{"POST /message message=hi", "", plain.URL, 302, 403, ""}, // our page in an old browser
		{"GET /", "cross-site", "", 200, 200, ""},                 // a link
		{"GET /events", "cross-site", "", 403, 403, otherOrigin},  // an iframe or an object
		{"POST /message message=hi", "cross-site", evil, 403, 403, otherOrigin},
		{"GET /events", "cross-site", app, 403, 200, ""},
		{"POST /message message=hi", "cross-site", app, 403, 302, ""},
		{"OPTIONS /message", "cross-site", app, 405, 200, ""}, // a preflight
		{"GET /server.go", "", "", 404, 404, ""},
		{"PUT /events", "", "", 405, 405, ""},
		{"GET /events?name=a%0Ab", "", "", 400, 400, "A name must be one line"},
		{"GET /events message=hi", "", "", 400, 400, "A stream request must not have a body.\n"},
	}
	for _, test := range tests {
		t.Run(test.request+" "+test.site+" "+test.origin, func(t *testing.T) {
			for c, status := range map[*chat]int{plain: test.status, forApp: test.statusForApp} {
				method, rest, _ := strings.Cut(test.request, " ")
				path, body, _ := strings.Cut(rest, " ")
				resp := do(t, method, c.URL+path, formType, body,
					"Sec-Fetch-Site: "+test.site, "Origin: "+test.origin)
				equal(t, "The status", resp.StatusCode, status)
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

// TestOriginFlag checks that -origin accepts an origin only in the form that browsers send.
func TestOriginFlag(t *testing.T) {
	for _, origin := range []string{"https://app.example:80", "http://app.example:443",
		"http://127.0.0.1:65535", "http://[::1]:3000", "https://my_app.xn--bcher-kva.example."} {
		equal(t, "Whether "+origin+" is an origin", isOrigin(origin), true)
		equal(t, "The error", http.NewCrossOriginProtection().AddTrustedOrigin(origin), nil)
	}
	for _, origin := range []string{"null", "https://app.example:0443", "https://app.example:65536",
		"ws://app.example", "https://app.example/", "http://app.example:80", "https://app.example:",
		"https://App.example", "https://1.2.3.256", "https://app.example ", "https://*.example",
		"app.example", "https://", "https://1.2.3", "https://[::1", "https://[0::1]",
		"*", "https://me@app.example", "https://app.example:443", "https://bücher.example"} {
		equal(t, "Whether "+origin+" is an origin", isOrigin(origin), false)
	}
}

// TestStalledCrowd checks that a crowd is counted, that it does not come back all at once, and that
// it delays nobody if it accepts nothing. It is cut off in the end, and nothing is left of it.
func TestStalledCrowd(t *testing.T) {
	bubble(t, startOn, func(t *testing.T, c *chat) {
		var crowd []*reader
		var names []string
		var waits []int
		for i := range maxListed + 50 {
			names = append(names, fmt.Sprintf("%03d", i))
			crowd = append(crowd, subscribe(t, c.URL, "?name="+names[i]))
			waits = append(waits, crowd[i].retry)
		}
		least, most := slices.Min(waits), slices.Max(waits)
		if least < 1000 || most > 2000 || most-least < 500 {
			t.Errorf("Readers wait %d to %d ms, want them spread from 1000 to 2000.", least, most)
		}
		time.Sleep(announcePause + time.Millisecond)
		healthy := subscribe(t, c.URL, "")
		listed := users(names[:maxListed]...)
		equal(t, "The list", healthy.read().data, strings.Replace(listed, "100", "150", 1))
		begun := time.Now()
		for i := range 100 { // Together they exceed one write, and each exceeds an HTTP chunk.
			text := strings.Repeat("🙂", maxMessage-i%2)
			post(t, c.URL, "", text)
			equal(t, "The message", healthy.messages(1)[0].Text, text)
		}
		equal(t, "The whole seconds that this takes", int(time.Since(begun).Seconds()), 0)
		crowd[0].messages(100)
		crowd[0].close()
		listed = users(names[1 : maxListed+1]...)
		equal(t, "The later list", healthy.read().data, strings.Replace(listed, "100", "149", 1))
		equal(t, "The list when the crowd has gone", healthy.read().data, users())
		equal(t, "The crowd's end", time.Since(begun).Round(time.Second), writeTimeout+returnTime)
		equal(t, "The number of names", len(c.room.left), 0)
	})
}

// TestTimeouts checks when the server ends a connection.
func TestTimeouts(t *testing.T) {
	tests := []struct {
		name, request string
		wait          time.Duration // before the answer is read
		want          string
		cutOff        time.Duration
	}{
		{"half a header", "GET /events HTTP/1.1\r\nHost:", 0, "", readTimeout},
		{"half a post", postRequest(formType, 10, "message=a"), 0, "incomplete.\n", readTimeout},
		{"an idle connection", "GET /x HTTP/1.1\r\nHost: x\r\n\r\n", 0, "404", readTimeout},
		{"only the headers of a stream", "HEAD /events HTTP/1.0\r\n\r\n", 0, "200", 0},
		{"a page that nobody reads", "GET / HTTP/1.0\r\n\r\n", writeTimeout + 1, "", writeTimeout},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, startOn, func(t *testing.T, c *chat) {
				conn := dial(t, c.URL)
				begun := time.Now()
				io.WriteString(conn, test.request)
				time.Sleep(test.wait)
				answer := read(t, conn)
				contains(t, "The answer", answer, test.want)
				equal(t, "Whether there is an answer", answer != "", test.want != "")
				equal(t, "The time until EOF", time.Since(begun).Round(time.Second), test.cutOff)
			})
		})
	}
}

// TestUnderFire checks that readers that come and go while others post get the same messages.
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
	got := make([][]message, readers)
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
	for _, messages := range got {
		equal(t, "What a reader that comes and goes gets", fmt.Sprint(messages), fmt.Sprint(want))
	}
}

// TestStop checks what ^C does to streams and posts, and that serve returns a listener's error.
func TestStop(t *testing.T) {
	bubble(t, startOn, func(t *testing.T, c *chat) {
		reader := subscribe(t, c.URL, "")
		late, stuck := dial(t, c.URL), dial(t, c.URL)
		io.WriteString(late, postRequest(formType, 9, "mess"))
		io.WriteString(stuck, postRequest(formType, 9, "mess"))
		synctest.Wait()
		begun := time.Now()
		var stopping sync.WaitGroup
		stopping.Go(c.stop)
		reader.read() // who is here
		equal(t, "The end of a stream", reader.read().data, `EOF after ""`)
		equal(t, "The time until the stream ends", time.Since(begun), 0)
		equal(t, "The number of streams", len(c.room.streams), 0)
		io.WriteString(late, "age=a")
		contains(t, "The answer to a post in flight", read(t, late), "302 Found")
		stopping.Wait()
		equal(t, "The time that it takes to stop", time.Since(begun), shutdownTimeout)
		equal(t, "The answer to a stalled post", read(t, stuck), "")
		err := serve(t.Context(), new(net.TCPListener), nil)
		equal(t, "The error of a broken listener", err, error(syscall.EINVAL))
	})
}

// TestProcess checks the program itself: its flags, its signals, and its output.
func TestProcess(t *testing.T) {
	// A script started with & ignores ^C, and so would the processes we start, unless we catch ^C.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	defer signal.Reset(os.Interrupt)
	taken := listen(t, "127.0.0.1:0").Addr().String()
	tests := []struct {
		name string
		args []string
		sig  os.Signal // if it does not end by itself
		code int
		want string
	}{
		{"port in use", []string{"-addr", taken}, nil, 1, taken},
		{"stray argument", []string{"-addr", "localhost:0", ":4226"}, nil, 1, `":4226"`},
		{"invalid origin", []string{"-origin", "http://A"}, nil, 1, `"http://A" is not an origin`},
		{"help", []string{"-h"}, nil, 0, `(default "localhost:3000")`},
		{"no host", []string{"-addr=:0", "-origin=http://a"}, os.Interrupt, 0, "http://localhost:"},
		{"SIGTERM", []string{"-addr", "127.0.0.1:0"}, syscall.SIGTERM, 0, "http://127.0.0.1:"},
		{"second ^C", []string{"-addr", "127.0.0.1:0"}, os.Interrupt, -1, "http://127.0.0.1:"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.sig != nil && runtime.GOOS == "windows" {
				t.Skip("On Windows, a process cannot send signals.")
			}
			p := launch(t, "chat", test.args...)
			tooLate := time.AfterFunc(shutdownTimeout*2/3, func() { p.cmd.Process.Kill() })
			if test.code < 0 { // After the first ^C, the server waits for the rest of this request.
				io.WriteString(dial(t, p.at), "GET")
			}
			if test.sig == syscall.SIGTERM { // A script may send it at once.
				p.cmd.Process.Signal(test.sig)
			} else if test.sig != nil {
				reader := subscribe(t, p.at, "")
				p.cmd.Process.Signal(test.sig)
				reader.read() // who is here
				equal(t, "The end of a stream", reader.read().data, `EOF after ""`)
			}
			if test.code < 0 {
				go func() { // Until the server has handled the first ^C, it may ignore another.
					for p.cmd.Process.Signal(test.sig) == nil {
						runtime.Gosched()
					}
				}()
			}
			for p.out.Scan() {
				p.says += p.out.Text() + "\n"
			}
			p.cmd.Wait()
			equal(t, "Whether it ends soon", tooLate.Stop(), true)
			equal(t, "The exit code", p.cmd.ProcessState.ExitCode(), test.code)
			contains(t, "The output", p.says, test.want)
			isOneLine := strings.Count(p.says, "\n") == 1
			equal(t, fmt.Sprintf("Whether %q is one line", p.says), isOneLine, test.name != "help")
		})
	}
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
func startSmall(t testing.TB, listener net.Listener, _ string) *chat {
	small := &smallChat{readers: make(map[http.ResponseWriter]bool)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", small.events)
	mux.HandleFunc("POST /message", small.post)
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	stop := func() {
		time.AfterFunc(time.Minute, func() { server.Close() })
		server.Shutdown(t.Context())
	}
	return &chat{URL: "http://" + listener.Addr().String(), stop: stop}
}

// TestSmallVersion shows the rows of the README's table: what works only in our version.
func TestSmallVersion(t *testing.T) {
	tests := []struct {
		goesWrong string
		works     func(t *testing.T, c *chat) bool
	}{
		{"one stalled reader stops everybody", func(t *testing.T, c *chat) bool {
			do(t, "GET", c.URL+"/events", "", "") // This reader reads only the headers.
			healthy, _ := hear(t, c, "")
			return say(c, "hello") && until(healthy, "hello") != ""
		}},
		{"a message with line breaks fakes an event", func(t *testing.T, c *chat) bool {
			stream, _ := hear(t, c, "")
			say(c, "hello\n\ndata: forged")
			return until(stream, "\ndata: forged\n") == ""
		}},
		{"a reader that reconnects misses what was said", func(t *testing.T, c *chat) bool {
			stream, leave := hear(t, c, "")
			say(c, "hello")
			_, id, _ := strings.Cut(until(stream, "hello"), "id: ")
			leave()
			say(c, "meanwhile")
			stream, _ = hear(t, c, strings.TrimSpace(id))
			return until(stream, "meanwhile") != ""
		}},
		{"the sender's own page does not show the message", func(t *testing.T, c *chat) bool {
			_, leave := hear(t, c, "")
			say(c, "hello")
			leave() // The browser follows the redirect, and loads the page anew.
			stream, _ := hear(t, c, "")
			return until(stream, "hello") != ""
		}},
		{"^C hangs while a tab is open", func(t *testing.T, c *chat) bool {
			hear(t, c, "")
			begun := time.Now()
			c.stop()
			return time.Since(begun) < time.Minute
		}},
		{"a quiet stream is silent, or ends, within a day", func(t *testing.T, c *chat) bool {
			stream, _ := hear(t, c, "")
			time.Sleep(24 * time.Hour)
			heartbeats := len(stream)
			say(c, "hello")
			return until(stream, "hello") != "" && heartbeats >= int(24*time.Hour/heartbeat)
		}},
		{"a burst costs a write for each message and reader", func(t *testing.T, c *chat) bool {
			stream, _ := hear(t, c, "")
			for i := range 200 {
				say(c, fmt.Sprintf("number %d.", i))
			}
			time.Sleep(time.Second)
			return len(stream) < 20
		}},
	}
	for _, test := range tests {
		t.Run(test.goesWrong, func(t *testing.T) {
			bubble(t, startOn, func(t *testing.T, c *chat) {
				equal(t, "Whether it works in our version", test.works(t, c), true)
			})
			bubble(t, startSmall, func(t *testing.T, c *chat) {
				equal(t, "Whether it works in the small version", test.works(t, c), false)
			})
		})
	}
}

// hear opens a stream, waits until it is registered, and sends each piece of it to a channel.
func hear(t *testing.T, c *chat, lastEventID string) (stream chan string, leave func() error) {
	resp := do(t, "GET", c.URL+"/events", "", "", "Last-Event-ID: "+lastEventID)
	stream = make(chan string, 10_000)
	go func() {
		buf := make([]byte, 64<<10)
		for n, err := resp.Body.Read(buf); err == nil; n, err = resp.Body.Read(buf) {
			stream <- string(buf[:n])
		}
	}()
	synctest.Wait()
	return stream, resp.Body.Close
}

// until returns the first piece with text that comes within a minute, or nothing.
func until(stream chan string, text string) string {
	time.Sleep(time.Minute)
	for len(stream) > 0 {
		if piece := <-stream; strings.Contains(piece, text) {
			return piece
		}
	}
	return ""
}

// say posts a message, and reports whether it is answered.
func say(c *chat, text string) bool {
	_, err := client.PostForm(c.URL+"/message", url.Values{"message": {text}})
	return err == nil
}

// THE PAGE

// TestBrowserTwoTabs is the demo in a browser. Nothing that anybody types is treated as markup.
func TestBrowserTwoTabs(t *testing.T) {
	const markup = `<em>no</em><img src="/x" onerror="ran = true"><script>ran = true</script>&amp;`
	c := start(t)
	one := open(t, c.URL, "Math.random = () => .1") // so that the two random names differ
	first := one.eval("$('#name').value")
	one.rename("Ada")
	two := open(t, c.URL, "Math.random = () => .9")
	second := two.eval("$('#name').value")
	if first == "" || second == "" || second == first || second == "Ada" {
		t.Errorf("The first two tabs are named %q and %q, want two different names.", first, second)
	}
	two.rename("<i>Eve</i>")
	one.wait("texts('.quiet').includes('<i>Eve</i> joined')", "true")
	one.keys("#message", "Hello"+enter)
	two.wait("texts('.name, .text')", "Ada | Hello")
	two.keys("#message", markup+enter)
	for range 2 { // First from the stream, and after the reload from the HTML.
		one.wait("texts('.name, .text')", "Ada | Hello | <i>Eve</i> | "+markup)
		one.wait("texts('.own .text') + texts('#here li')", "Hello<i>Eve</i> | Ada")
		one.wait("all(':is(#log, #here, #wire) :is(em, i, img, script)').length", "0")
		one.wait("box('.own .text').left > box('.text:not(.own *)').left", "true")
		one.reload()
	}
	one.expected = "Content Security Policy" // Even if markup got into the page, it would not run.
	one.eval("$('#count').setAttribute('onclick', 'ran = true'), $('#count').click()")
	one.wait("typeof ran", "undefined")
	// The page can also be used without JavaScript.
	two.devTools("Emulation.setScriptExecutionDisabled", dict{"value": true})
	two.reload()
	two.keys("#message", "Hello"+enter+"again")
	two.click("#send")
	two.wait("all('.text').at(-1).textContent + location", "Hello\nagain"+c.URL+"/")
	two.wait("/UTC$/.test(texts('time')) && /reload/i.test(document.body.innerText)", "true")
	// Text browsers show even what is in a template, but not what is in a script.
	page := regexp.MustCompile(`(?s)<(script|style).*?</(script|style)>`).
		ReplaceAllString(read(t, do(t, "GET", c.URL, "", "").Body), "")
	scriptOnly := regexp.MustCompile(`id="(state|connect|here|count|wire|newer)"`)
	equal(t, "The element that is useless without JavaScript", scriptOnly.FindString(page), "")
}

// TestBrowserEvents checks what the page makes of events.
func TestBrowserEvents(t *testing.T) {
	url, events := feed(t)
	post(t, url, "Ada", "one")
	w := open(t, url, `
		const [RealDate, interval] = [Date, setInterval];
		now = "2026-11-20T14:59:00Z";
		Date = class extends RealDate {
			constructor(...time) { super(...(time.length > 0 ? time : [now])); }
		};
		setInterval = (f, ms) => interval(f, ms / 20);`)
	w.wait("texts('.name, .text')", "Ada | one")
	w.wait("/^[A-Z].*[0-9].*[AP]M$/.test($('time').textContent)", "true")

	// The log shows each message once, in groups, with local times.
	const noon = "2026-11-20T12:00:00Z"
	events <- says("AFTER", "Ada", "one", noon) // The page has this message already.
	want := "Ada | one"
	for i, m := range []string{"Bob 12:00:00", "Bob 12:04:59", "Ada 12:05:00", "Bob 12:05:01",
		"Bob 12:10:02"} {
		message := says(fmt.Sprint(i), m[:3], m[4:], "2026-11-20T"+m[4:]+"Z")
		events <- message + message
		want += " | " + m[:3] + " | " + m[4:]
	}
	events <- says("1", "Bob", "12:04:59", noon)
	w.wait("texts('.name, .text')", want)
	// What one person sends within five minutes appears under one name and time.
	w.wait("all('.name, time').map(e => (e.scrollIntoView(), seen(e) ? 1 : 0))",
		"1,1,1,1,0,0,1,1,1,1,1,1")
	const last = `all("time").at(-1).textContent.replace(/\s/g, " ")`
	w.wait(last, "9:10 PM")
	w.eval("now = '2026-11-20T15:00:00Z'") // It is midnight.
	w.wait(last, "Nov 20, 2026, 9:10 PM")

	// The wire shows the latest 20 events as the stream carried them, and the title of a hidden
	// tab shows the number of messages that it got.
	came := []string{strings.TrimSpace(here("Ada")), "event: missed\ndata:\nid: 2"}
	for i := range 19 {
		came = append(came, strings.TrimSpace(says(fmt.Sprint(20+i), "Ada", "<b>", noon)))
	}
	w.do("POST", "/window/minimize", dict{}, nil)
	w.wait("document.hidden", "true")
	events <- ":\nretry: 10\nid: 1\n" + strings.Join(came, "\n\n") + "\n\n"
	w.wait("$('#wire-count').innerText", "33")
	slices.Reverse(came)
	w.wait("all('#wire-log li').map(e => e.textContent).join('\\n\\n')",
		strings.Join(came[:20], "\n\n"))
	w.wait("document.title", "(19) Chat")
	w.do("POST", "/window/rect", dict{"width": 800, "height": 600}, nil)
	w.wait("document.hidden + document.title", "falseChat")
	events <- says("50", "Ada", "seen", noon)
	w.wait("all('.text').at(-1).innerText + document.title", "seenChat")

	// The page lists who is here, and says who has joined or left.
	const shown = "texts('#here li, #count')"
	events <- ""                // The connection breaks,
	events <- here("Bob", "Cy") // and the first list after that is not news.
	w.wait(shown, "2 | Bob | Cy")
	events <- here(w.eval("$('#name').value"), "Bob", "Cy", "Dan") + here("Cy", "Dan")
	w.wait("texts('.quiet')", "Some messages may be missing here. | Dan joined | Bob left")
	crowd := slices.Repeat([]string{"Visitor"}, 100)
	events <- strings.Replace(here(crowd...), "100", "121", 1) // A list cut short is no news.
	w.wait(shown, "121 | "+strings.Join(crowd, " | ")+" | and 21 more")
	events <- here("Gil") + here(crowd...)
	w.wait("texts('.quiet').split('Bob left')[1]", " | 100 people joined | Gil left")
	events <- strings.Repeat(here()+here("Bob"), 400) + here("Cy")
	w.wait("[texts('.quiet').endsWith('Cy joined | Bob left'), all('.quiet').length]", "true,100")
	w.wait("all('[data-id]').length", "26") // Those who come and go do not push out the messages.
}

// TestBrowserComposer checks how a message is written and sent.
func TestBrowserComposer(t *testing.T) {
	c := start(t)
	w := open(t, c.URL)
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
	sent += " | one | two | three | not yet"
	w.wait("texts('.text')", sent)

	// This is what a screen reader is told.
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
	w.wait("[document.documentElement.lang, $('#name').labels.length]", "en,1")
	w.wait("getComputedStyle($('.own .name'), '::after').content.includes('you')", "true")

	// The name and the draft survive a reload and going back.
	w.rename("Ada")
	w.keys("#message", "four"+shift+enter+enter+release+"five")
	for _, back := range []bool{false, true} {
		if back {
			w.visit("about:blank")
			post(t, c.URL, "Bob", "meanwhile")
			w.do("POST", "/back", dict{}, nil)
		} else {
			w.reload()
		}
		w.wait("state()", live)
		w.wait("[$('#name').value, $('#message').value, linesTall()]", "Ada,four\n\nfive,3")
		w.wait("texts('#here li').includes('Ada')", "true")
	}
	w.wait("texts('.text')", sent+" | meanwhile")
	w.keys("#message", enter)
	w.wait("texts('.text')", sent+" | meanwhile | four\n\nfive")
	w.reload()
	w.wait("state() + $('#message').value", live)
	w.wait("texts('.own .name')", "Ada")
}

// TestBrowserRefused checks what the page does if its stream or its posts are refused.
func TestBrowserRefused(t *testing.T) {
	var streams, posts atomic.Int32
	w := open(t, front(t, func(w http.ResponseWriter, req *http.Request, chat http.Handler) {
		isPost := req.Method == "POST"
		switch {
		case req.URL.Path == "/events" && streams.Add(1) <= 5, isPost && posts.Add(1) == 2:
			w.WriteHeader(http.StatusBadGateway)
		case isPost && posts.Load() > 2:
			<-t.Context().Done()
		default:
			chat.ServeHTTP(w, req)
		}
	}), `const f = AbortSignal.timeout;
		AbortSignal.timeout = ms => f.call(AbortSignal, ms / 20);
		const timeout = setTimeout;
		delays = [];
		setTimeout = (f, ms) => {
			if (ms > 500) delays.push(ms);
			return timeout(f, ms > 500 ? ms / 20 : ms);
		};`)
	w.expected = "status of (413|502)"
	// EventSource has given up, so the page has to try again.
	w.wait("delays.length", "5")
	w.wait("delays.every((ms, i) => ms > 900 && ms < 31_000 && ms !== delays[i - 1])", "true")
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
	w.wait("texts('.text')", "")
}

// TestBrowserRestart disconnects the page, and then restarts the server: the page catches up.
func TestBrowserRestart(t *testing.T) {
	c := start(t)
	w := open(t, c.URL)
	w.expected = "net::ERR_"
	post(t, c.URL, "Bob", "1")
	w.wait("texts('.text')", "1")
	w.click("#connect")
	w.wait("state()", "disconnected,disconnected | connect")
	w.wait(`all("aside, h2, label, summary, time, .name, .text, #connect, #here li, #state").filter(
		e => contrast(e) < 4.5 || getComputedStyle(e).opacity < 1).map(e => e.outerHTML)`, "")
	post(t, c.URL, "Bob", "2")
	w.keys("#message", "3"+enter)
	w.wait("$('#why').innerText", "Sent. You will see it once you are connected.")
	w.wait("texts('.text')", "1")
	w.click("#connect")
	w.wait("state() + $('#why').innerText", live)
	w.wait("texts('.text')", "1 | 2 | 3")
	w.wait("texts('#wire-log').match(/message\":\"[0-9]/g).length", "3") // Each came once.
	c.stop()
	w.wait("state()", "connecting,connecting | disconnect")
	w.keys("#message", "5"+enter)
	w.wait("$('#why').innerText.includes('not answer')", "true")
	startOn(t, listen(t, strings.TrimPrefix(c.URL, "http://")), "")
	post(t, c.URL, "Bob", "4")
	w.wait("state() + $('#why').innerText", live)
	w.wait("texts('.text, .quiet')", "1 | 2 | 3 | Some messages may be missing here. | 4")
	w.wait("$('#message').value", "5")
	w.keys("#message", enter)
	w.wait("texts('.text')", "1 | 2 | 3 | 4 | 5")
}

// TestBrowserLayout checks what is in view: in the log, and in windows of all sizes.
func TestBrowserLayout(t *testing.T) {
	c := start(t)
	for i := range latestSize {
		c.room.publish(fmt.Sprint("Visitor ", i), "Hello")
	}
	w := open(t, c.URL, `new PerformanceObserver(list => {
			longest = Math.max(window.longest, ...list.getEntries().map(e => e.duration));
		}).observe({ type: "longtask" });`)
	// The log follows its newest line, unless older ones are in view.
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
	w.click("#connect")
	for i := range 3000 { // These must not freeze the page.
		c.room.publish("Ada", fmt.Sprint(i))
	}
	w.eval("longest = 0")
	w.click("#connect")
	w.wait("texts('.text') == Array.from({ length: 500 }, (_, i) => 2500 + i).join(' | ')", "true")
	w.wait("longest < 4000 || longest", "true")

	// Nothing overflows, and everything can be reached.
	w.rename(strings.Repeat("W", maxName))
	long, tall := strings.Repeat("W", maxMessage), strings.Repeat("\n🙂", 50)
	for _, text := range []string{"Hi", long, tall} {
		c.room.publish(strings.Repeat("M", maxName), text)
		c.room.publish(strings.Repeat("W", maxName), text)
	}
	w.wait("texts('[data-id]:last-child :is(.name, .text)').replace(/\\s/g, '')",
		strings.Repeat("W", maxName)+"|"+strings.Repeat("🙂", 50))
	w.wait("texts('#here li').includes($('#name').value)", "true")
	w.wait("all('.text').at(-1).clientHeight < 500", "true")
	w.wait("(s => s.overflow + s.unicodeBidi)(getComputedStyle($('.text')))", "clipplaintext")
	w.wait("getComputedStyle($('time')).display", "inline-block") // A date must not be split.
	w.eval("$('#wire').open = true")
	for _, size := range [][2]int{{320, 640}, {320, 256}, {740, 360}, {1440, 900}} {
		w.devTools("Emulation.setDeviceMetricsOverride", dict{"width": size[0], "height": size[1],
			"deviceScaleFactor": 1, "mobile": false})
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
		w.keys("#message", fmt.Sprint(size)+enter)
		w.wait("all('.text').filter(e => seen(e)).at(-1).textContent", fmt.Sprint(size))
	}
}

// HELPERS FOR THE PAGE'S TESTS

// A window is a separate browser, controlled by its own ChromeDriver. The protocol is JSON
// over HTTP (https://www.w3.org/TR/webdriver2).
type window struct {
	t        *testing.T
	session  string // its URL
	expected string // a pattern for what the test makes the browser complain about
}

type dict map[string]any

// These are WebDriver's names for keys. The last one releases the others.
const enter, shift, release = "\uE007", "\uE008", "\uE000"

const live = "live,live | disconnect" // the state of a page, and its button

// open opens the page in a new window, where a script may run before the page's own. At the end of
// the test, the browser's console must show nothing unexpected.
func open(t *testing.T, url string, script ...string) *window {
	t.Helper()
	if _, err := exec.LookPath("chromedriver"); err != nil && os.Getenv("CI") == "" {
		t.Skip("The page is not tested here, because ChromeDriver is not installed.")
	}
	port := strings.TrimSuffix(launch(t, "chromedriver", "--port=0").at, ".")
	w := &window{t: t, session: "http://127.0.0.1:" + port + "/session"}
	args := []string{"--headless=new", "--lang=en-US"}
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // Root cannot use the sandbox.
	}
	var made struct{ SessionID string }
	w.do("POST", "", dict{"capabilities": dict{"alwaysMatch": dict{
		"goog:loggingPrefs": dict{"browser": "ALL"}, "goog:chromeOptions": dict{"args": args},
	}}}, &made)
	w.session += "/" + made.SessionID
	t.Cleanup(func() {
		var console []struct{ Message string }
		w.do("POST", "/se/log", dict{"type": "browser"}, &console)
		for _, line := range console {
			if w.expected == "" || !regexp.MustCompile(w.expected).MatchString(line.Message) {
				t.Errorf("The browser's console says %q.", line.Message)
			}
		}
		w.do("DELETE", "", dict{}, nil)
	})
	w.devTools("Page.addScriptToEvaluateOnNewDocument", dict{"source": strings.Join(script, "")})
	w.devTools("Emulation.setTimezoneOverride", dict{"timezoneId": "Asia/Tokyo"})
	w.visit(url)
	w.wait("state()", live)
	return w
}

// do sends a command to this window, and decodes the value that it returns into result.
func (w *window) do(method, path string, parameters dict, result any) {
	w.t.Helper()
	body, _ := json.Marshal(parameters)
	req, _ := http.NewRequest(method, w.session+path, bytes.NewReader(body))
	patient := http.Client{Timeout: 3 * patience} // A browser may take a while to start.
	resp, err := patient.Do(req)
	ok(w.t, err)
	answer := read(w.t, resp.Body)
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("ChromeDriver answered %.999s to %s %.999s.", answer, path, body)
	}
	json.Unmarshal([]byte(answer), &struct{ Value any }{result})
}

func (w *window) visit(url string)      { w.do("POST", "/url", dict{"url": url}, nil) }
func (w *window) reload()               { w.do("POST", "/refresh", dict{}, nil) }
func (w *window) click(selector string) { w.element("POST", selector, "/click", dict{}, nil) }
func (w *window) keys(selector, text string) {
	w.element("POST", selector, "/value", dict{"text": text}, nil)
}

// devTools sends a command of the Chrome DevTools Protocol, for what WebDriver cannot do.
func (w *window) devTools(name string, parameters dict) {
	w.t.Helper()
	w.do("POST", "/goog/cdp/execute", dict{"cmd": name, "params": parameters}, nil)
}

// element sends a command to an element of the page.
func (w *window) element(method, selector, path string, parameters dict, result any) {
	w.t.Helper()
	var found map[string]string // one entry, whose key does not matter
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
		const state = () => [$("#state").dataset.state, texts("#state, #connect").toLowerCase()];
		const box = selector => $(selector).getBoundingClientRect();
		const seen = (e, b = e.getBoundingClientRect()) => e.contains(document.elementFromPoint(
			b.left + Math.min(b.width / 2, 20), b.top + b.height / 2));
		const linesTall = (e = $("#message"), s = getComputedStyle(e)) => Math.round((e.clientHeight
			- parseFloat(s.paddingTop) - parseFloat(s.paddingBottom)) / parseFloat(s.lineHeight));
		const luminance = color => {
			const pixel = new OffscreenCanvas(1, 1).getContext("2d");
			pixel.fillStyle = color;
			pixel.fillRect(0, 0, 1, 1);
			const [r, g, b] = pixel.getImageData(0, 0, 1, 1).data;
			return .05 + .21 * (r / 255) ** 2.2 + .72 * (g / 255) ** 2.2 + .07 * (b / 255) ** 2.2;
		};
		const contrast = e => luminance(getComputedStyle(e.closest(".text, main, html"))
			.backgroundColor) / luminance(getComputedStyle(e).color);
		try {
			return String(` + expression + `);
		} catch (error) {
			return String(error);
		}`}, &value)
	return value
}

// wait waits until a JavaScript expression has the value want.
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

// front starts a server whose handle may pass requests on to a chat.
func front(t *testing.T, handle func(http.ResponseWriter, *http.Request, http.Handler)) string {
	chat := newRoom().handler("")
	serve := func(w http.ResponseWriter, req *http.Request) { handle(w, req, chat) }
	server := httptest.NewServer(http.HandlerFunc(serve))
	t.Cleanup(server.Close) // after the next line, because it waits for all requests
	t.Cleanup(server.CloseClientConnections)
	return server.URL
}

// feed starts a chat whose stream carries what the test sends, and ends after an empty string.
func feed(t *testing.T) (url string, events chan<- string) {
	sent := make(chan string, 100)
	return front(t, func(w http.ResponseWriter, req *http.Request, chat http.Handler) {
		if req.URL.Path != "/events" {
			chat.ServeHTTP(w, req)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for text := ":\n"; text != ""; {
			io.WriteString(w, strings.ReplaceAll(text, "AFTER", req.FormValue("after")))
			http.NewResponseController(w).Flush()
			select {
			case text = <-sent:
			case <-req.Context().Done():
				return
			}
		}
	}), sent
}

// says returns an event that is a message.
func says(id, name, text, time string) string {
	return fmt.Sprintf("data: {\"name\":%q,\"message\":%q,\"time\":%q}\nid: %s\n\n",
		name, text, time, id)
}

// here returns an event that says who is here.
func here(names ...string) string {
	return "event: users\ndata: " + users(names...) + "\nid: 1\n\n"
}

// THE README

// TestReadme checks the facts that the README states, however it words them.
func TestReadme(t *testing.T) {
	content, err := os.ReadFile("README.md")
	ok(t, err)
	readme := string(content)
	t.Run("transcript", func(t *testing.T) {
		if _, err := exec.LookPath("curl"); err != nil && os.Getenv("CI") == "" {
			t.Skip(err)
		}
		steps := strings.Split("\n"+between(readme, "```console\n", "\n```\n"), "\n$ ")[1:]
		equal(t, "The number of commands", len(steps), 4)
		c := start(t)
		varying := regexp.MustCompile(
			`\r|\s+\z|(?m:(^Date: ).*|(^retry: )\d{4}$|(^id: )\d{16}$)|("time":")[^"]*Z`)
		for _, step := range steps {
			command, want, _ := strings.Cut(step, "\n")
			here := strings.ReplaceAll(command, "localhost:3000", c.URL)
			got, _ := exec.Command("sh", "-c", here).Output() // When -m ends a stream, curl fails.
			output := varying.ReplaceAllString(string(got), "$1$2$3$4")
			equal(t, "The output of "+command, output, varying.ReplaceAllString(want, "$1$2$3$4"))
		}
	})
	tests, err := os.ReadFile("server_test.go")
	ok(t, err)
	code := between(readme, "```go\n", "\n```\n")
	contains(t, "The README's code", code, "type smallChat")
	contains(t, "This file", string(tests), code)
	numbers := map[string]string{
		"`historySize`": fmt.Sprint(historySize), "`maxMessage`": fmt.Sprint(maxMessage),
		"`maxName`": fmt.Sprint(maxName), "`shutdownTimeout`": fmt.Sprint(shutdownTimeout),
		"`readTimeout`": fmt.Sprint(readTimeout), "`writeTimeout`": fmt.Sprint(writeTimeout),
		// TestPosts and TestRequests show that these answers are given.
		"`GET /`": "200", "`GET /events`": "200 400 403",
		"`POST /message`": "200 302 400 403 413 415",
	}
	tables := between(readme, "\n| constant |", "\n\n") + between(readme, "\n| request |", "\n\n")
	rows := regexp.MustCompile("\n\\| (`.*?`) \\| (.*?) \\|").FindAllStringSubmatch(tables, -1)
	equal(t, "The number of rows", len(rows), len(numbers))
	for _, row := range rows {
		cell := strings.NewReplacer(",", "", " s", "s").Replace(row[2])
		got := regexp.MustCompile(`\b\d+s?\b`).FindAllString(cell, -1)
		slices.Sort(got)
		equal(t, "The numbers for "+row[1], strings.Join(slices.Compact(got), " "), numbers[row[1]])
	}
}

// between returns what is between two texts.
func between(text, start, end string) string {
	_, text, _ = strings.Cut(text, start)
	text, _, _ = strings.Cut(text, end)
	return text
}

// HELPERS

// TestMain lets the test binary be a server in a process of its own: the chat, or the floor.
func TestMain(m *testing.M) {
	switch os.Getenv("SSECHAT") {
	case "chat":
		go tellMemory()
		main()
	case "floor":
		runFloor()
	default:
		log.SetOutput(io.Discard) // net/http would log the broken connections.
		os.Exit(m.Run())
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// equal fails the test if got is not want.
func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is\n%.9999q, want\n%.9999q.", what, fmt.Sprint(got), fmt.Sprint(want))
	}
}

// contains fails the test if want is not in got.
func contains(t testing.TB, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s is\n%.9999q, want\n%q in it.", what, got, want)
	}
}

// patience is how long a test waits for anything. In a bubble, waiting costs nothing.
var patience = 10 * time.Second

// A chat is a server that a test has started.
type chat struct {
	URL  string
	room *room
	stop func() // ends it as ^C does, and waits until it has ended
}

// start starts a chat, which ends with the test.
func start(t testing.TB) *chat {
	return startOn(t, listen(t, "127.0.0.1:0"), "")
}

// startOn starts a chat on a listener, with a value for -origin.
func startOn(t testing.TB, listener net.Listener, origin string) *chat {
	room := newRoom()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, listener, room.handler(origin)) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			equal(t, "The error from serve", err, nil)
		case <-time.After(patience):
			t.Errorf("The server did not stop within %v.", patience)
		}
	})
	t.Cleanup(stop)
	return &chat{URL: "http://" + listener.Addr().String(), room: room, stop: stop}
}

// listen listens on a real socket.
func listen(t testing.TB, addr string) net.Listener {
	listener, err := net.Listen("tcp", addr)
	ok(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener
}

// bubble runs a test with a chat, and with a clock that jumps ahead whenever all goroutines wait.
// The connections are in memory and have no buffers: a write waits until the other side reads.
func bubble(t *testing.T, start func(testing.TB, net.Listener, string) *chat,
	test func(t *testing.T, c *chat)) {
	defer time.AfterFunc(patience, func() {
		panic(t.Name() + " is waiting for something other than time, perhaps for a mutex.")
	}).Stop()
	realConnect, realPatience := connect, patience
	defer func() { connect, patience = realConnect, realPatience }()
	patience = 48 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		n := make(network)
		connect = n.dial
		test(t, start(t, n, ""))
	})
}

// A network is a listener whose connections are in memory.
type network chan net.Conn

func (n network) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	n <- server
	return client, nil
}

func (n network) Accept() (net.Conn, error) {
	conn, isOpen := <-n
	return conn, map[bool]error{false: net.ErrClosed}[isOpen]
}

func (n network) Close() error   { close(n); return nil }
func (n network) Addr() net.Addr { return &net.UnixAddr{Name: "bubble"} }

var connect = new(net.Dialer).DialContext // In a bubble, this is a network's dial.

// client does not follow redirects. It uses each connection only once, because a connection on
// which nothing arrives for a while fails.
var client = &http.Client{
	Transport:     &http.Transport{DialContext: dialLimited, DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// A limitedConn fails if nothing arrives within patience.
type limitedConn struct{ net.Conn }

func (c limitedConn) Read(b []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(patience))
	return c.Conn.Read(b)
}

func dialLimited(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := connect(ctx, network, addr)
	return limitedConn{conn}, err
}

// dial opens a connection, for what a client of net/http cannot do.
func dial(t testing.TB, url string) net.Conn {
	conn, err := dialLimited(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
	ok(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// postRequest returns a post as it goes over the wire. Its header may announce a longer body.
func postRequest(kind string, length int, body string) string {
	return fmt.Sprintf("POST /message HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n"+
		"Content-Length: %d\r\n\r\n%s", kind, length, body)
}

// do sends a request, with headers such as "Origin: null". A header without a value is left out.
func do(t testing.TB, method, url, kind, body string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	ok(t, err)
	for _, line := range append(header, "Content-Type: "+kind) {
		if key, value, _ := strings.Cut(line, ": "); value != "" {
			req.Header.Set(key, value)
		}
	}
	resp, err := client.Do(req)
	ok(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// read reads everything.
func read(t testing.TB, from io.Reader) string {
	t.Helper()
	content, err := io.ReadAll(from)
	ok(t, err)
	return string(content)
}

// lines reads n lines.
func lines(t testing.TB, from *bufio.Reader, n int) (all string) {
	t.Helper()
	for range n {
		line, err := from.ReadString('\n')
		ok(t, err)
		all += line
	}
	return all
}

// post posts a message, which must be accepted.
func post(t testing.TB, url, name, text string) {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"name": name, "message": text})
	resp := do(t, "POST", url+"/message", jsonType, string(body))
	got := fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Content-Type"))
	equal(t, "The status and type of the answer to a post", got, "200 application/json")
}

// users returns the data of a users event.
func users(names ...string) string {
	list, _ := json.Marshal(append([]string{}, names...))
	return fmt.Sprintf(`{"count":%d,"names":%s}`, len(names), list)
}

// A reader reads a stream. It accepts only what this server is meant to write.
type reader struct {
	t     testing.TB
	close func() error
	lines *bufio.Reader
	retry int
	id    string // of the last event
}

type event struct {
	kind string // users, missed, or nothing for a message; end is the end of the stream
	id   int64
	data string // for end, the error
}

// subscribe opens a stream, and reads the two lines that start its first event.
func subscribe(t testing.TB, url, query string, header ...string) *reader {
	t.Helper()
	resp := do(t, "GET", url+"/events"+query, "", "", header...)
	r := &reader{t: t, close: resp.Body.Close, lines: bufio.NewReader(resp.Body)}
	_, err := fmt.Fscanf(r.lines, "retry: %d\nid: %s\n", &r.retry, &r.id)
	ok(t, err)
	return r
}

var eventPattern = regexp.MustCompile(
	`^(?:event: (users|missed)\n)?data:(?: (\{[^\r]*\}))?\nid: (\d+)\n\n$`)

// read returns the next event.
func (r *reader) read() event {
	r.t.Helper()
	block := ""
	for !strings.HasSuffix(block, "\n\n") {
		line, err := r.lines.ReadString('\n')
		block += line
		if err != nil {
			return event{kind: "end", data: fmt.Sprintf("%v after %q", err, block)}
		}
		block = strings.TrimPrefix(block, ":\n")
	}
	parts := eventPattern.FindStringSubmatch(block)
	if parts == nil || !utf8.ValidString(block) {
		r.t.Fatalf("%q is not an event that this server should write.", block)
	}
	last, _ := strconv.ParseInt(r.id, 10, 64)
	id, _ := strconv.ParseInt(parts[3], 10, 64)
	kind, data := parts[1], parts[2]
	isNext := map[string]bool{"": id > last, "users": id == last, "missed": id != last}[kind]
	if !isNext || (data == "") != (kind == "missed") {
		r.t.Fatalf("%q cannot come after the id %d.", block, last)
	}
	r.id = parts[3]
	return event{kind, id, data}
}

// messages skips users, and returns the next n events, which must be messages.
func (r *reader) messages(n int) (all []message) {
	r.t.Helper()
	for len(all) < n {
		e := r.read()
		if e.kind == "users" {
			continue
		}
		m := message{ID: e.id}
		if err := json.Unmarshal([]byte(e.data), &m); err != nil || e.kind != "" {
			r.t.Fatalf("Event %d of %d is %+v, want a message.", len(all)+1, n, e)
		}
		all = append(all, m)
	}
	return all
}

// A process is a program in a process of its own, so that its CPU time is known.
type process struct {
	cmd  *exec.Cmd
	in   io.Writer
	out  *bufio.Scanner // of what it says
	says string         // the lines so far
	at   string         // what it says at the end of the last one: where it listens
}

// launch starts ChromeDriver or a server, and waits until it says where it listens, or ends.
func launch(t testing.TB, name string, args ...string) *process {
	path, before := os.Args[0], " at "
	if name == "chromedriver" {
		path, before = name, "successfully on port "
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "SSECHAT="+name)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	cmd.Stderr = cmd.Stdout
	ok(t, cmd.Start())
	p := &process{cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() { p.end() })
	defer time.AfterFunc(patience, func() { cmd.Process.Kill() }).Stop()
	for p.at == "" && p.out.Scan() {
		p.says += p.out.Text() + "\n"
		_, p.at, _ = strings.Cut(p.out.Text(), before)
	}
	return p
}

// end ends the process, and returns its CPU time.
func (p *process) end() time.Duration {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// BENCHMARKS

// BenchmarkBurst posts to 1,000 readers as fast as possible. The floor is the simplest server with
// the same interface: a loop that writes each message to each connection.
func BenchmarkBurst(b *testing.B) {
	l := load{readers: 1000, messages: 500}
	for b.Loop() {
		chat, least := l.run(b, "chat").took, l.run(b, "floor").took
		b.ReportMetric(float64(chat)/float64(l.readers*l.messages), "ns/delivery")
		b.ReportMetric(float64(least)/float64(chat), "x-floor")
	}
}

// BenchmarkPaced posts 50 messages a second to 1,000 readers.
func BenchmarkPaced(b *testing.B) {
	l, idle := load{readers: 1000, messages: 200, pace: 20 * time.Millisecond}, load{readers: 1000}
	for b.Loop() {
		chat := l.run(b, "chat").cpu - idle.run(b, "chat").cpu
		least := l.run(b, "floor").cpu - idle.run(b, "floor").cpu
		b.ReportMetric(float64(chat)/float64(l.readers*l.messages), "CPU-ns/delivery")
		b.ReportMetric(float64(chat)/float64(least), "x-floor-CPU")
	}
}

// BenchmarkIdle measures what 10,000 readers cost while nobody says anything.
func BenchmarkIdle(b *testing.B) {
	for b.Loop() {
		p := launch(b, "chat", "-addr", "127.0.0.1:0")
		memory := func() int {
			fmt.Fprintln(p.in)
			p.out.Scan()
			bytes, _ := strconv.Atoi(p.out.Text())
			return bytes
		}
		before := memory()
		streams := load{readers: 10_000}.connect(b, p.at)
		b.ReportMetric(float64(memory()-before)/float64(len(streams)), "B/reader")
	}
}

// tellMemory prints how many bytes this process uses, each time it reads a line.
func tellMemory() {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(memory())
	}
}

// memory returns how many bytes this process uses.
func memory() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapInuse + m.StackInuse)
}

// BenchmarkStalled posts 8 KB at a time, without and with readers that accept nothing.
func BenchmarkStalled(b *testing.B) {
	l := load{readers: 100, messages: 700, size: 8000, pace: 10 * time.Millisecond}
	for b.Loop() {
		l.stalled = 0
		alone := l.run(b, "chat").p99
		l.stalled = 50
		beside := l.run(b, "chat").p99
		b.ReportMetric(float64(beside)/float64(alone), "x-p99")
	}
}

// BenchmarkReturn measures how long 10,000 readers take to connect to a new server.
func BenchmarkReturn(b *testing.B) {
	for kind, query := range map[string]string{"nameless": "", "named": "?name=N"} {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				p := launch(b, "chat", "-addr", "127.0.0.1:0")
				begun := time.Now()
				load{readers: 10_000, query: query}.connect(b, p.at)
				b.ReportMetric(time.Since(begun).Seconds(), "s/all")
			}
		})
	}
}

// A load is what a server has to do in a benchmark.
type load struct {
	readers, stalled, messages, size int
	pace                             time.Duration // between two messages
	query                            string        // of the readers; N is the number of each
}

type result struct{ took, cpu, p99 time.Duration }

// run starts a server and measures it.
func (l load) run(b *testing.B, server string) (got result) {
	p := launch(b, server, "-addr", "127.0.0.1:0")
	streams := l.connect(b, p.at)
	poster := dial(b, p.at)
	go io.Copy(io.Discard, poster) // the answers
	body := `{"name":"Ada","message":"` + strings.Repeat("🙂", max(l.size/4, 6)) + `"}`
	request := postRequest(jsonType, len(body), body)
	begun := time.Now()
	due := func(i int) time.Time { return begun.Add(time.Duration(i) * l.pace) }
	waits := make([][]time.Duration, l.readers)
	var wg sync.WaitGroup
	for i, stream := range streams[:l.readers] {
		wg.Go(func() {
			buf := make([]byte, 16<<10)
			for lines := 0; len(waits[i]) < l.messages; {
				n, err := stream.Read(buf)
				ok(b, err)
				lines += bytes.Count(buf[:n], []byte("\n"))
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
	if all := slices.Sorted(slices.Values(slices.Concat(waits...))); len(all) > 0 {
		got.p99 = all[len(all)*99/100]
	}
	got.cpu = p.end()
	return got
}

// connect opens all streams of a load, a hundred at a time, and reads their first events.
func (l load) connect(b *testing.B, url string) []*bufio.Reader {
	streams := make([]*bufio.Reader, l.readers+l.stalled)
	var wg sync.WaitGroup
	for first := range 100 {
		wg.Go(func() {
			for i := first; i < len(streams); i += 100 {
				conn := dial(b, url)
				query := strings.ReplaceAll(l.query, "N", strconv.Itoa(i))
				fmt.Fprintf(conn, "GET /events%s HTTP/1.1\r\nHost: x\r\n\r\n", query)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				ok(b, err)
				streams[i] = bufio.NewReader(resp.Body)
				lines(b, streams[i], 6)
			}
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return streams
}

// runFloor is the process of the floor. It writes to connections that it has taken from net/http.
func runFloor() {
	const first = "retry: 1000\nid: 1\nevent: users\ndata: {\"count\":0,\"names\":[]}\nid: 1\n\n"
	var mu sync.Mutex
	var readers []net.Conn
	http.HandleFunc("GET /events", func(w http.ResponseWriter, req *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n",
			len(first), first)
		mu.Lock()
		readers = append(readers, conn)
		mu.Unlock()
	})
	http.HandleFunc("POST /message", func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		event := fmt.Sprintf("data: %s\nid: 1\n\n", body)
		chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(event), event)
		for _, reader := range readers {
			reader.Write(chunk)
		}
	})
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	log.Print("The floor is at http://", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
