package main

import (
	"bufio"
	"bytes"
	"cmp"
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
	c := startChat(t)
	ada, bob := c.openStream(t, "?name=Ada"), c.openStream(t, "")
	equal(t, "Content-Type", ada.header.Get("Content-Type"), "text/event-stream")
	equal(t, "Cache-Control", ada.header.Get("Cache-Control"), "no-cache, no-transform")
	equal(t, "X-Accel-Buffering", ada.header.Get("X-Accel-Buffering"), "no")
	equal(t, "Transfer-Encoding", ada.transferEncoding, "chunked")
	before := time.Now()
	resp := c.request(t, "POST", "/message", jsonType, `{"name":"Ada","message":"Hi,\nall"}`)
	equal(t, "The type of the answer", resp.Header.Get("Content-Type"), jsonType)
	m := bob.nextMessage(t)
	equal(t, "The answer", readAll(t, resp.Body), bob.data+"\n")
	equal(t, "What Ada gets", ada.nextMessage(t), m)
	equal(t, "What a later tab gets", c.openStream(t, "").nextMessage(t), m)
	equal(t, "The message", m.Name+": "+m.Text, "Ada: Hi,\nall")
	if m.Time.Before(before) || m.Time.After(time.Now()) || m.Time.Location() != time.UTC {
		t.Errorf("The time is %v, want one between %v and now, in UTC.", m.Time, before)
	}
}

// TestPage checks that the page shows the latest messages without JavaScript, and only as text.
func TestPage(t *testing.T) {
	c := startChat(t)
	reader := c.openStream(t, "")
	c.postMany(t, "<i>Ada", latestSize+1)
	resp := c.request(t, "GET", "/", "", "")
	page := readAll(t, resp.Body)
	reader.nextMessage(t) // The page does not show this one.
	var want, got string
	for range latestSize {
		m := reader.nextMessage(t)
		want += fmt.Sprintf("%d %s\n", m.ID, m.Text)
	}
	pattern := regexp.MustCompile(`(?s) data-id="(\d+)".*?&lt;i&gt;Ada.*?&lt;b&gt;(\d+)`)
	for _, line := range pattern.FindAllStringSubmatch(page, -1) {
		got += line[1] + " <b>" + line[2] + "\n"
	}
	equal(t, "What the page shows", got, want)
	equal(t, "Where it resumes", between(page, ` data-after="`, `"`), reader.lastID)

	nonce := between(page, `<script nonce="`, `"`)
	contains(t, "The page", page, `<style nonce="`+nonce+`"`)
	equal(t, "Cache-Control", resp.Header.Get("Cache-Control"), "no-store")
	equal(t, "Content-Security-Policy", resp.Header.Get("Content-Security-Policy"),
		strings.ReplaceAll("default-src 'none'; script-src 'nonce-X'; style-src 'nonce-X'; "+
			"connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "+
			"frame-ancestors 'none'", "X", nonce))
	again := readAll(t, c.request(t, "GET", "/", "", "").Body)
	if strings.Contains(again, nonce) {
		t.Errorf("Two pages have the same nonce, %q.", nonce)
	}
}

// TestResume checks where a reader resumes, and when it is told that it missed something.
func TestResume(t *testing.T) {
	c := startChat(t)
	base, _ := strconv.Atoi(c.openStream(t, "").lastID)
	newest := base + logSize + 1
	c.postMany(t, "Ada", logSize+1) // The log keeps all but the first.
	id := func(id int) string { return "Last-Event-ID: " + strconv.Itoa(id) }
	after := func(id int) string { return "?after=" + strconv.Itoa(id) }
	tests := []struct {
		name, query, header string
		missed              bool
		place               int
	}{
		{"no id", "", "", false, newest - latestSize},
		{"an id in the header", "", id(base + 5000), false, base + 5000},
		{"an id in the query", after(base + 7000), "", false, base + 7000},
		{"both, and the header wins", after(base + 7000), id(base + 5000), false, base + 5000},
		{"the newest id", "", id(newest), false, newest},
		{"not a number", "?after=no%00id", "", false, newest - latestSize},
		{"a negative number", "", id(-1), false, newest - latestSize},
		{"the id before all kept messages", "", id(base + 1), false, base + 1},
		{"an older id", "", id(base), true, base + 1},
		{"an id from the future", "", id(newest + 1), true, base + 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			reader := c.openStream(t, test.query, test.header)
			if test.missed {
				before := strings.TrimPrefix(test.header, "Last-Event-ID: ")
				equal(t, "The id until missed arrives", reader.lastID, before)
				equal(t, "The event", reader.nextEvent(t), "missed")
				equal(t, "Its data", reader.data, "{}")
				equal(t, "Its id", reader.lastID, strconv.Itoa(test.place))
			}
			for i := test.place; i < newest; i++ {
				m := reader.nextMessage(t)
				if m.Text != fmt.Sprintf("<b>%d", i+1-base) {
					t.Fatalf("The reader gets %v after %d.", m, i)
				}
			}
			equal(t, "The last id", reader.lastID, strconv.Itoa(newest))
		})
	}
}

// TestMissedOnce checks that a reader whose place is gone gets messages, even if the next one in
// the log is dropped while it is told so.
func TestMissedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *chat) {
		c.postMany(t, "Ada", logSize)
		reader := c.openStream(t, "?after=1")
		c.postMessage(t, "Bob", "This drops the oldest message.")
		equal(t, "The first event", reader.nextEvent(t), "missed")
		equal(t, "The next event", reader.nextMessage(t).Text, "<b>1")
	})
}

// TestUsers checks who is listed as here, and when.
func TestUsers(t *testing.T) {
	inBubble(t, func(t *testing.T, c *chat) {
		begun := time.Now()
		watcher := c.openStream(t, "?name=+%0A")
		equal(t, "The list in an empty room", watcher.users, users())
		expect := func(at time.Duration, want ...string) {
			t.Helper()
			equal(t, "The list", watcher.nextUsers(t), users(want...))
			equal(t, "When it comes", time.Since(begun), at)
		}
		// Whatever happens within a second is one event.
		c.openStream(t, "").close()
		ada := c.openStream(t, "?name=Ada")
		bob := c.openStream(t, "?name=%20Bob%0D%0A")
		c.openStream(t, "?name=Bob")
		cy := c.openStream(t, "?name=Cy")
		equal(t, "The list that a newcomer gets first", cy.users, users())
		expect(1*time.Second, "Ada", "Bob", "Cy")
		equal(t, "The list that a newcomer gets next", cy.nextUsers(t), watcher.users)

		// Ada and Cy leave, and Bob closes one of his two tabs. Ada comes back at 3.2 s, but only
		// for a moment. A name stays for 3 seconds after its last stream.
		ada.close()
		bob.close()
		cy.close()
		time.Sleep(2200 * time.Millisecond)
		c.openStream(t, "?name=Ada").close()
		expect(5*time.Second, "Ada", "Bob")
		expect(7*time.Second, "Bob")

		// Without changes, the list is sent again as the heartbeat.
		expect(15*time.Second, "Bob")
		expect(30*time.Second, "Bob")
	})
}

// TestManyUsers checks that a crowd is counted, but not listed in full, and that a thousand
// arrivals make one event. Its readers are told to reconnect at different times.
func TestManyUsers(t *testing.T) {
	inBubble(t, func(t *testing.T, c *chat) {
		watcher := c.openStream(t, "")
		var names []string
		least, most := 2000, 0
		for i := range 1000 {
			names = append(names, fmt.Sprintf("%04d", i))
			reader := c.openStream(t, "?name="+names[i])
			least, most = min(least, reader.retry), max(most, reader.retry)
		}
		if least < 1000 || most > 2000 || most-least < 900 {
			t.Errorf("Readers wait %d to %d ms, want them spread from 1000 to 2000.", least, most)
		}
		listed := users(names[:maxListed]...)
		equal(t, "The list", watcher.nextUsers(t),
			strings.Replace(listed, fmt.Sprint(maxListed), fmt.Sprint(len(names)), 1))
	})
}

// TestPause checks that a message after a quiet moment goes out at once, and that those that
// follow it wait for each other, but not for long.
func TestPause(t *testing.T) {
	inBubble(t, func(t *testing.T, c *chat) {
		reader := c.openStream(t, "")
		time.Sleep(heartbeat / 2)
		begun := time.Now()
		c.postMessage(t, "", "first")
		equal(t, "The message", reader.nextMessage(t).Text, "first")
		equal(t, "How long it takes", time.Since(begun), 0)
		for i := range 20 {
			c.postMessage(t, "", fmt.Sprint(i))
		}
		for i := range 20 {
			equal(t, "The message", reader.nextMessage(t).Text, fmt.Sprint(i))
		}
		equal(t, "How long they take", time.Since(begun), pause)
	})
}

// WHAT IT WITHSTANDS

// TestPosts checks what readers get of a post, and what its sender is told if it is refused.
func TestPosts(t *testing.T) {
	const badForm = "The form is malformed.\n"
	const badJSON = "Send JSON whose name and message are strings.\n"
	tooLong := fmt.Sprintf("A message is limited to %d characters.\n", maxMessage)
	tooLarge := fmt.Sprintf("A post is limited to %d bytes.\n", maxBody)
	name, most := strings.Repeat("é", maxName), strings.Repeat("🙂", maxMessage)
	escaped := url.QueryEscape(most)
	padded := "message=a&x=" + strings.Repeat("x", maxBody-12)
	tests := []struct {
		label, kind, body string
		status            int
		want              string // the name and the text as readers get them, or the refusal
	}{
		{"form without a name", formType, "message=hi", 302, "guest: hi"},
		{"blank name", formType, "name=+%0A&message=hi", 302, "guest: hi"},
		{"white space", formType + "; charset=UTF-8", "name=+A%0D%0A+B%C2%85&message=%0A+a+%0D%0A",
			302, "A B: a"},
		{"line ends", formType, "message=a%0D%0Ab%0Dc%C2%85d%0A%0De", 302,
			"guest: a\nb\nc\nd\n\ne"},
		{"not UTF-8", formType, "name=%FE&message=a%FFb", 302, "\uFFFD: a\uFFFDb"},
		{"longest message", formType, "message=+" + escaped + "+", 302, "guest: " + most},
		{"longest name", formType, "message=a&name=" + name, 302, name + ": a"},
		{"longer name", formType, "message=a&name=" + name + "x", 302, name + ": a"},
		{"space where a name is cut", formType, "message=a&name=" + name[2:] + "+x", 302,
			name[2:] + ": a"},
		{"largest body", formType, padded, 302, "guest: a"},
		{"JSON", "Application/JSON; a=b", `{"name":"Ada","message":"hi"}`, 200, "Ada: hi"},

		{"blank message", formType, "message=+%0A%E2%80%A8", 400, "The message is blank.\n"},
		{"bad escape", formType, "message=%zz", 400, badForm},
		{"JSON and an extra brace", jsonType, `{"message":"hi"}}`, 400, badJSON},
		{"JSON number", jsonType, `{"message":1}`, 400, badJSON},
		{"message too long", formType, "message=" + escaped + "x", 413, tooLong},
		{"large form", formType, padded + "x", 413, tooLarge},
		{"large JSON", jsonType, padded + "x", 413, tooLarge},
		{"large file", "image/png", padded + "x", 415, "Send a URL-encoded form or JSON.\n"},
	}
	c := startChat(t)
	reader := c.openStream(t, "")
	for _, test := range tests {
		t.Run(test.label, func(t *testing.T) {
			resp := c.request(t, "POST", "/message?message=query", test.kind, test.body)
			got := readAll(t, resp.Body)
			if test.status < 400 {
				m := reader.nextMessage(t)
				got = m.Name + ": " + m.Text
			}
			equal(t, "The message or the refusal", got, test.want)
			equal(t, "The status", resp.StatusCode, test.status)
			if test.status == http.StatusFound {
				equal(t, "Location", resp.Header.Get("Location"), "/")
			}
		})
	}
	c.postMessage(t, "", "last")
	equal(t, "The last message", reader.nextMessage(t).Text, "last")
}

// FuzzPost checks that whatever is posted, what is accepted arrives as exactly one message.
func FuzzPost(f *testing.F) {
	for _, text := range []string{"hello", "a\r\nb\rc\n", "\ndata: x\n\nid: 7\n\n", ":\n", "%0A+",
		"\u2028\u0085\v\f", "\xff\xfe", "\x00", "\uFEFF", `\u000a</script>`, `\ud800`} {
		f.Add(false, url.Values{"name": {text}, "message": {text}}.Encode())
		f.Add(true, `{"message":"`+text+`"}`)
	}
	c := startChat(f)
	lastID := ""
	f.Fuzz(func(t *testing.T, isJSON bool, body string) {
		reader := c.openStream(t, "?after="+lastID)
		kind := formType
		if isJSON {
			kind = jsonType
		}
		resp := c.request(t, "POST", "/message", kind, body)
		if resp.StatusCode >= 500 {
			t.Errorf("The status is %d.", resp.StatusCode)
		}
		c.postMessage(t, "", "the end")
		if resp.StatusCode < 400 {
			reader.nextMessage(t)
		}
		equal(t, "The next message", reader.nextMessage(t).Text, "the end")
		lastID = reader.lastID
	})
}

// TestRequests checks what is refused before anything is read or posted.
func TestRequests(t *testing.T) {
	const malformed = "The query is malformed.\n"
	large := "X: " + strings.Repeat("x", maxHeader)
	tests := []struct {
		name, method, path, header string
		status                     int
		answer                     string
	}{
		{"no such page", "GET", "/server.go", "", 404, "404 page not found\n"},
		{"a post to the stream", "POST", "/events", "", 405, "Method Not Allowed\n"},
		{"a bad escape in the query", "GET", "/events?name=100%", "", 400, malformed},
		{"a semicolon in the query", "GET", "/events?after=1;x", "", 400, malformed},
		{"most headers", "HEAD", "/events", large[:maxHeader*15/16], 200, ""},
		{"too many headers", "HEAD", "/events", large, 431, ""},
	}
	c := startChat(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			resp := c.request(t, test.method, test.path, "", "", test.header)
			equal(t, "The status", resp.StatusCode, test.status)
			equal(t, "The answer", readAll(t, resp.Body), test.answer)
			if test.status == http.StatusMethodNotAllowed {
				equal(t, "Allow", resp.Header.Get("Allow"), "GET, HEAD")
			}
		})
	}
}

// TestOtherSites checks who can read and post: our page, programs, and pages from the -origin.
func TestOtherSites(t *testing.T) {
	const app, evil = "https://app.example", "https://evil.example"
	plain, forApp := startChat(t), startChatOn(t, listen(t, "127.0.0.1:0"), app)
	tests := []struct {
		name, method, path   string
		site, origin         string // what browsers send as Sec-Fetch-Site and Origin
		status, statusForApp int
	}{
		{"curl reads", "GET", "/events", "", "", 200, 200},
		{"our page reads", "GET", "/events", "same-origin", "", 200, 200},
		{"our page posts", "POST", "/message", "same-origin", plain.URL, 302, 302},
		{"our page posts from an old browser", "POST", "/message", "", plain.URL, 302, 403},
		{"a link on another site", "GET", "/", "cross-site", "", 200, 200},
		{"an iframe on another site", "GET", "/events", "cross-site", "", 403, 403},
		{"another site posts", "POST", "/message", "cross-site", evil, 403, 403},
		{"the app reads", "GET", "/events", "cross-site", app, 403, 200},
		{"the app posts", "POST", "/message", "cross-site", app, 403, 302},
		{"the app's preflight", "OPTIONS", "/message", "cross-site", app, 405, 200},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check := func(c *chat, status int, allowedOrigin, allowedHeaders string) {
				t.Helper()
				resp := c.request(t, test.method, test.path, formType, "message=hi",
					"Sec-Fetch-Site: "+test.site, "Origin: "+test.origin)
				equal(t, "The status", resp.StatusCode, status)
				if status == http.StatusForbidden {
					equal(t, "The answer", readAll(t, resp.Body),
						"A page from another origin may not do this.\n")
				}
				header := resp.Header.Get
				equal(t, "Allowed", header("Access-Control-Allow-Origin"), allowedOrigin)
				equal(t, "Allowed", header("Access-Control-Allow-Headers"), allowedHeaders)
			}
			check(plain, test.status, "", "")
			check(forApp, test.statusForApp, app, "Content-Type, Last-Event-ID")
		})
	}
}

// TestSlowReaders checks that a reader that accepts nothing is cut off, that one that accepts a
// little is not, and that neither delays anybody else.
func TestSlowReaders(t *testing.T) {
	inBubble(t, func(t *testing.T, c *chat) {
		healthy := c.openStream(t, "")
		slow := c.openStream(t, "")
		stalled := c.openStream(t, "?name=Ada")
		equal(t, "The list", healthy.nextUsers(t), users("Ada"))
		const count = 100
		text := strings.Repeat("🙂", maxMessage)
		begun := time.Now()
		for range count {
			c.postMessage(t, "", text)
			equal(t, "The message", healthy.nextMessage(t).Text, text)
		}
		if took := time.Since(begun); took > count*pause {
			t.Errorf("A healthy reader gets %d messages in %v.", count, took)
		}
		healthy.close()
		for range count { // in two thirds of the time that is allowed, so for several minutes
			time.Sleep(writeTimeout / 15)
			equal(t, "The message", slow.nextMessage(t).Text, text)
		}
		got := 0
		for stalled.nextEvent(t) != "end" {
			got++
		}
		if got > 10 {
			t.Errorf("The stalled reader still gets %d events.", got)
		}
		equal(t, "The list without the stalled reader", c.openStream(t, "").users, users())
	})
}

// TestTimeouts checks when the server ends a connection.
func TestTimeouts(t *testing.T) {
	tests := []struct {
		name, request string
		wait          time.Duration // before the answer is read
		answer        string        // part of it
		end           time.Duration // of the connection
	}{
		{"half a header", "GET /events HTTP/1.1\r\nHost:", 0, "", readTimeout},
		{"half a post", postRequest(10, "{"), 0, "The post is incomplete.", readTimeout},
		{"an idle connection", "GET /x HTTP/1.1\r\nHost: x\r\n\r\n", 0, "404", idleTimeout},
		{"only the headers of a stream", "HEAD /events HTTP/1.0\r\n\r\n", 0, "200 OK", 0},
		{"a page that nobody reads", "GET / HTTP/1.0\r\n\r\n", writeTimeout + 1, "", writeTimeout},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *chat) {
				conn := c.dial(t)
				begun := time.Now()
				io.WriteString(conn, test.request)
				time.Sleep(test.wait)
				answer := readAll(t, conn)
				if test.answer == "" {
					equal(t, "The answer", answer, "")
				}
				contains(t, "The answer", answer, test.answer)
				equal(t, "When it ends", time.Since(begun).Round(time.Second), test.end)
			})
		})
	}
}

// TestUnderFire checks that readers that come and go while others post get the same messages.
func TestUnderFire(t *testing.T) {
	c := startChat(t)
	stays := c.openStream(t, "")
	lastIDs := slices.Repeat([]string{stays.lastID}, 20)
	got := make([]string, len(lastIDs))
	readSome := func(i, count int) {
		reader := c.openStream(t, "", "Last-Event-ID: "+lastIDs[i])
		for range count {
			got[i] += reader.nextMessage(t).Text + " "
		}
		lastIDs[i] = reader.lastID
		reader.close()
	}
	var posted atomic.Int32
	var isOver atomic.Bool
	var posting sync.WaitGroup
	for range 4 {
		posting.Go(func() {
			for !isOver.Load() {
				number := fmt.Sprint(posted.Add(1))
				if !c.postForm(number) {
					t.Errorf("The post of %s fails.", number)
				}
			}
		})
	}
	const rounds, each = 10, 20
	for range rounds {
		for i := range lastIDs {
			readSome(i, each)
		}
	}
	isOver.Store(true)
	posting.Wait()
	want := ""
	for range posted.Load() {
		want += stays.nextMessage(t).Text + " "
	}
	for i := range lastIDs {
		readSome(i, int(posted.Load())-rounds*each)
		equal(t, "What a reader that comes and goes gets", got[i], want)
	}
}

// TestStop checks what ^C does to streams and posts, and that serve returns a listener's error.
func TestStop(t *testing.T) {
	inBubble(t, func(t *testing.T, c *chat) {
		reader := c.openStream(t, "")
		late, stuck := c.dial(t), c.dial(t)
		io.WriteString(late, postRequest(15, `{"messa`))
		io.WriteString(stuck, postRequest(15, `{"messa`))
		synctest.Wait()
		begun := time.Now()
		var stopping sync.WaitGroup
		stopping.Go(c.stop)
		equal(t, "What the stream does", reader.nextEvent(t), "end")
		if took := time.Since(begun); took > pause {
			t.Errorf("The stream ends after %v.", took)
		}
		io.WriteString(late, `ge":"a"}`)
		contains(t, "The answer to a post in flight", readAll(t, late), "200 OK")
		stopping.Wait()
		equal(t, "How long it takes to stop", time.Since(begun), shutdownTimeout)
		equal(t, "The answer to a post that never arrives", readAll(t, stuck), "")
		err := serve(t.Context(), new(net.TCPListener), nil)
		equal(t, "The error of a broken listener", err, error(syscall.EINVAL))
	})
}

// TestProgram checks the program itself: its flags, its signals, and its output.
func TestProgram(t *testing.T) {
	taken := listen(t, "127.0.0.1:0").Addr().String()
	tests := []struct {
		name   string
		args   []string
		code   int
		output string // the only line
	}{
		{"port in use", []string{"-addr", taken}, 1, taken},
		{"invalid origin", []string{"-origin", "app.example"}, 1, "scheme is required"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := startProcess(t, os.Args[0], test.args...)
			equal(t, "The exit status", p.wait(), test.code)
			contains(t, "The output", p.output, test.output)
			equal(t, "The number of lines", strings.Count(p.output, "\n"), 1)
		})
	}
}

// TestSignals checks how the program ends, and that it prints an address that a browser can open.
func TestSignals(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("On Windows, a process cannot send signals.")
	}
	// A script started with & ignores ^C, and so would the processes we start, unless we catch ^C.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	defer signal.Reset(os.Interrupt)

	t.Run("SIGTERM", func(t *testing.T) {
		p := startProcess(t, os.Args[0], "-addr", "127.0.0.1:0")
		contains(t, "The address", p.address, "http://127.0.0.1:")
		p.cmd.Process.Signal(syscall.SIGTERM)
		equal(t, "The exit status", p.wait(), 0)
	})
	t.Run("^C and ^C again", func(t *testing.T) {
		p := startProcess(t, os.Args[0], "-addr", ":0", "-origin", "https://app.example")
		contains(t, "The address", p.address, "http://localhost:")
		c := chatAt(p.address)
		io.WriteString(c.dial(t), "GET") // The server waits for the rest of this request.
		reader := c.openStream(t, "")    // It accepts connections in order.
		p.cmd.Process.Signal(os.Interrupt)
		for reader.nextEvent(t) != "end" {
		}
		begun := time.Now()
		go func() { // Until the server has handled the first ^C, it may ignore another.
			for p.cmd.Process.Signal(os.Interrupt) == nil {
				runtime.Gosched()
			}
		}()
		equal(t, "The exit status", p.wait(), -1)
		if took := time.Since(begun); took > shutdownTimeout/2 {
			t.Errorf("The second ^C takes %v.", took)
		}
		equal(t, "The number of lines", strings.Count(p.output, "\n"), 1)
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

// startSmallChat starts the small version.
func startSmallChat(t testing.TB, listener net.Listener, _ string) *chat {
	small := &smallChat{readers: make(map[http.ResponseWriter]bool)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", small.events)
	mux.HandleFunc("POST /message", small.post)
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	c := chatAt("http://" + listener.Addr().String())
	c.stop = func() {
		time.AfterFunc(time.Minute, func() { server.Close() })
		server.Shutdown(t.Context())
	}
	return c
}

// TestSmallVersion shows the rows of the README's table: what works only in our version.
func TestSmallVersion(t *testing.T) {
	tests := []struct {
		goesWrong string
		works     func(t *testing.T, c *chat) bool
	}{
		{"one stalled reader stops everybody", func(t *testing.T, c *chat) bool {
			c.request(t, "GET", "/events", "", "") // This reader reads only the headers.
			healthy := c.collect(t, "")
			return c.postForm("hello") && healthy.gets("hello") != ""
		}},
		{"a message with line breaks fakes an event", func(t *testing.T, c *chat) bool {
			reader := c.collect(t, "")
			c.postForm("hello\n\ndata: forged")
			return reader.gets("\ndata: forged\n") == ""
		}},
		{"a reader that reconnects misses messages", func(t *testing.T, c *chat) bool {
			reader := c.collect(t, "")
			c.postForm("hello")
			_, id, _ := strings.Cut(reader.gets("hello"), "id: ")
			reader.leave()
			c.postForm("meanwhile")
			return c.collect(t, strings.TrimSpace(id)).gets("meanwhile") != ""
		}},
		{"the sender's own page does not show the message", func(t *testing.T, c *chat) bool {
			reader := c.collect(t, "")
			c.postForm("hello")
			reader.leave() // The browser follows the redirect, and loads the page anew.
			return c.collect(t, "").gets("hello") != ""
		}},
		{"^C hangs while a tab is open", func(t *testing.T, c *chat) bool {
			c.collect(t, "")
			begun := time.Now()
			c.stop()
			return time.Since(begun) < time.Minute
		}},
		{"a quiet stream is silent, or ends, within a day", func(t *testing.T, c *chat) bool {
			reader := c.collect(t, "")
			time.Sleep(24 * time.Hour)
			heartbeats := len(reader.pieces)
			c.postForm("hello")
			return reader.gets("hello") != "" && heartbeats >= int(24*time.Hour/heartbeat)
		}},
		{"each message costs a write for each reader", func(t *testing.T, c *chat) bool {
			reader := c.collect(t, "")
			for i := range 200 {
				c.postForm(fmt.Sprint(i))
			}
			time.Sleep(time.Second)
			return len(reader.pieces) < 20
		}},
	}
	for _, test := range tests {
		t.Run(test.goesWrong, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *chat) {
				if !test.works(t, c) {
					t.Error("This goes wrong in our version, too.")
				}
			})
			inBubbleWith(t, startSmallChat, func(t *testing.T, c *chat) {
				if test.works(t, c) {
					t.Error("This does not go wrong in the small version.")
				}
			})
		})
	}
}

// A collector collects what a stream carries, piece by piece, however it is encoded.
type collector struct {
	pieces chan string
	leave  func() error
}

// collect opens a stream, and waits until it is registered.
func (c *chat) collect(t *testing.T, lastEventID string) collector {
	resp := c.request(t, "GET", "/events", "", "", "Last-Event-ID: "+lastEventID)
	w := collector{make(chan string, 10_000), resp.Body.Close}
	go func() {
		piece := make([]byte, 64<<10)
		for n, err := resp.Body.Read(piece); err == nil; n, err = resp.Body.Read(piece) {
			w.pieces <- string(piece[:n])
		}
	}()
	synctest.Wait()
	return w
}

// gets returns the first piece with text that comes within a minute, or nothing.
func (w collector) gets(text string) string {
	time.Sleep(time.Minute)
	for len(w.pieces) > 0 {
		if piece := <-w.pieces; strings.Contains(piece, text) {
			return piece
		}
	}
	return ""
}

// postForm posts a message as a form does, and reports whether it is answered within a minute.
func (c *chat) postForm(text string) bool {
	client := c.client
	client.Timeout = time.Minute
	_, err := client.PostForm(c.URL+"/message", url.Values{"message": {text}})
	return err == nil
}

// THE PAGE

// TestBrowser checks the page in Chromium. Its parts mostly wait, so they run side by side.
func TestBrowser(t *testing.T) {
	driver := startDriver(t)
	for _, part := range []struct {
		name  string
		check func(t *testing.T, driver string)
	}{
		{"two tabs", checkTwoTabs}, {"names", checkNames}, {"events", checkEvents},
		{"people", checkPeople}, {"composing", checkComposing}, {"failed posts", checkFailedPosts},
		{"reconnecting", checkReconnecting}, {"restart", checkRestart}, {"layout", checkLayout},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.check(t, driver)
		})
	}
}

// checkTwoTabs is the demo. Nothing that anybody types is treated as markup.
func checkTwoTabs(t *testing.T, driver string) {
	const markup = `<em>no</em><img src="/x" onerror="ran = true"><script>ran = true</script>&amp;`
	c := startChat(t)
	ada, eve := openWindow(t, driver, c.URL), openWindow(t, driver, c.URL)
	ada.rename("Ada")
	eve.rename("<i>Eve</i>")
	ada.typeKeys("#message", "Hello"+enter)
	eve.waitFor("texts('.name, .text')", "Ada | Hello")
	ada.evaluate("getSelection().selectAllChildren($('.text'))") // It survives what arrives.
	eve.typeKeys("#message", markup+enter)
	ada.waitFor("all('.text').length + getSelection().toString()", "2Hello")
	for range 2 { // First, they come from the stream, and after the reload, from the HTML.
		ada.waitFor("texts('.name, .text')", "Ada | Hello | <i>Eve</i> | "+markup)
		ada.waitFor("texts('.own .text, #here li')", "Ada | <i>Eve</i> | Hello")
		ada.waitFor("all(':is(#log, #here, #wire) :is(em, i, img, script)').length", "0")
		ada.waitFor("box('.own .text').left > box('.text:not(.own *)').left", "true")
		ada.reload()
	}
	ada.expected = "Content Security Policy" // Even if markup got into the page, it would not run.
	ada.evaluate("$('#count').setAttribute('onclick', 'ran = true'), $('#count').click()")
	ada.waitFor("typeof ran", "undefined")
	const last = "[data-id]:last-child"
	for _, row := range []struct{ name, text, links string }{
		{"parentheses", "(http://a.example/b_(c)?d=e#f).", "http://a.example/b_(c)?d=e#f"},
		{"two", "HTTPS://a.example/<b>, http://b.example", "HTTPS://a.example/ | http://b.example"},
		{"other schemes", "javascript:alert(1) xhttps://a.example ftp://a.example https://", ""},
		{"emoji", "👍🏽", ""},
	} {
		c.postMessage(t, "Ada", row.text)
		eve.waitFor("texts('"+last+" .text')", row.text)
		eve.waitFor("texts('"+last+" a')", row.links)
	}
	eve.waitFor("all('#log a').map(a => a.target + a.rel)[0]", "_blanknoopener noreferrer")
	eve.waitFor("getComputedStyle($('.text')).tabSize", "4")
	eve.waitFor("box('"+last+" .text').height > 1.2 * box('.text').height", "true")
	// The page can also be used without JavaScript.
	eve.devTools("Emulation.setScriptExecutionDisabled", dict{"value": true})
	eve.reload()
	eve.typeKeys("#name", "Plain")
	eve.typeKeys("#message", "Hello"+enter+"again")
	eve.click("#send")
	eve.waitFor("texts('"+last+" :is(.name, .text)') + location", "Plain | Hello\nagain"+c.URL+"/")
	eve.waitFor("/UTC$/.test(texts('time')) && /reload/i.test(document.body.innerText)", "true")
	eve.waitFor("['#state', '#connect', '#who', '#wire'].filter(s => box(s).height > 0)", "")
}

// checkNames checks that a tab is one person, and that two tabs are two.
func checkNames(t *testing.T, driver string) {
	c := startChat(t)
	w := openWindow(t, driver, c.URL)
	w.typeKeys("#message", "hello"+enter)
	for _, row := range []struct{ typed, name string }{
		{" ", "guest"},
		{" A\u00a0 b ", "A b"},
		{strings.Repeat("🙂", maxName+1), strings.Repeat("🙂", maxName)},
		{"Ada", "Ada"},
	} {
		w.rename(row.typed)
		w.waitFor("$('#name').value + texts('#here li')", row.name+row.name)
		w.typeKeys("#message", "as "+row.name+enter)
		w.waitFor("texts('.own:last-child .text')", "as "+row.name)
	}
	w.evaluate("all('#lines .name').forEach(e => e.innerHTML = '<font>translated</font>')")
	w.rename("Bea")
	w.waitFor("all('[data-id]:not(.own)').length", "0")
	w.typeKeys("#message", "one"+shift+enter+release+"two")
	w.evaluate("$('#name').value = ''")
	w.typeKeys("#name", "Bob") // This is not confirmed by Enter.
	for _, isBack := range []bool{false, true} {
		if isBack {
			w.load("about:blank")
			c.postMessage(t, "guest", "meanwhile")
			w.command("POST", "/back", dict{}, nil)
			w.waitFor("texts('[data-id]:last-child .text')", "meanwhile")
		} else {
			w.reload()
		}
		w.waitFor("[$('#name').value, $('#message').value]", "Bob,one\ntwo")
		w.waitFor("all('[data-id]:not(.own)').length", "0") // All names that one had are one's own.
	}
	w.waitFor("texts('#lines .quiet')", "") // Nobody is told about oneself.
	w.evaluate("void open(location)")       // As in a duplicated tab, sessionStorage is copied.
	var tabs []string
	w.command("GET", "/window/handles", dict{}, &tabs)
	w.command("POST", "/window", dict{"handle": tabs[1]}, nil)
	w.waitFor("state()", live)
	w.waitFor("[$('#name').value === 'Bob', $('#message').value, texts('#lines .own')]", "false,,")
	w.waitFor("texts('#here li').includes('Bob')", "true")
}

// checkEvents checks what the page makes of messages, and what it shows of the wire.
func checkEvents(t *testing.T, driver string) {
	c, nextStream := startFeed(t)
	c.postMessage(t, "Ada", "one")
	w := openWindow(t, driver, c.URL)
	stream := nextStream()
	stream.events <- usersEvent("Ada")
	w.waitFor("texts('.name, .text')", "Ada | one")
	w.waitFor("/[0-9] [AP]M$/.test(texts('time'))", "true")
	stream.events <- messageEvent(stream.after, "Ada", "one", "12:00:00") // The page has this one.
	want := "Ada | one"
	for i, line := range []string{"Bob 12:00:00", "Bob 12:04:59", "Ada 12:05:00", "Ada 12:10:01",
		"Ada 14:59:59", "Ada 15:00:00"} { // The last one is sent at midnight in Tokyo.
		name, time, _ := strings.Cut(line, " ")
		event := messageEvent(fmt.Sprint(i), name, time, time)
		stream.events <- event + event
		want += " | " + name + " | " + time
	}
	w.waitFor("texts('.name, .text')", want)
	w.waitFor("all('.name').map(e => (e.scrollIntoView(), shows(e) ? 1 : 0))", "1,1,0,1,1,1,1")
	w.waitFor(`all("time").slice(1).map(e => e.textContent.replace(/\W+/g, " "))`,
		"Nov 20 2026 9 00 PM,9 04 PM,9 05 PM,9 10 PM,11 59 PM,Nov 21 2026 12 00 AM")
	w.command("POST", "/window/minimize", dict{}, nil)
	w.waitFor("document.hidden", "true")
	events := []string{usersEvent("Ada"), "event: missed\ndata: {}\nid: 8\n\n"}
	for i := range 19 {
		events = append(events, messageEvent(fmt.Sprint(20+i), "Ada", "<b>", "15:00:01"))
	}
	stream.events <- ":\nretry: 10\n" + strings.Join(events, "")
	w.waitFor("document.title", "(19) Chat")
	w.waitFor("texts('#lines .quiet')", "Some messages may be missing here.")
	slices.Reverse(events)
	w.waitFor("all('#wire-log li').map(e => e.textContent + '\\n\\n').join('')",
		strings.Join(events[:20], ""))
	w.command("POST", "/window/rect", dict{"width": 800, "height": 600}, nil)
	w.waitFor("document.hidden + document.title", "falseChat")
	w.command("POST", "/window/minimize", dict{}, nil)
	stream.events <- messageEvent("50", "Ada", "again", "15:00:02")
	w.waitFor("document.title", "(1) Chat")
}

// checkPeople checks what the page makes of lists of who is here.
func checkPeople(t *testing.T, driver string) {
	c, nextStream := startFeed(t)
	w := openWindow(t, driver, c.URL, "now = Date.now(); Date.now = () => now")
	stream := nextStream()
	me := w.evaluate("$('#name').value")
	const shown = "texts('#count, #here li')"
	stream.events <- usersEvent("Bob")
	w.waitFor(shown, "2 | "+me+" | Bob") // A newcomer is not on the list yet.
	stream.events <- usersEvent("Bob", "Cy", me)
	w.waitFor(shown, "3 | "+me+" | Bob | Cy")
	w.evaluate("now += 4100") // What came before is no news.
	stream.events <- usersEvent("Bob", "Cy", "Dan", "Eli", me) + usersEvent("Bob", "Cy", me)
	w.waitFor("texts('#lines .quiet')", "Dan, Eli joined | Dan, Eli left")
	w.evaluate("marked = $('#here li:last-child')")
	stream.events <- usersEvent("Bob", "Cy", me) // A heartbeat disturbs nobody.
	w.waitFor("[texts('#wire-log').match(/users/g).length, marked.isConnected]", "5,true")
	w.rename("Zoe")
	w.waitFor(shown, "3 | Zoe | Bob | Cy")
	stream = nextStream()
	stream.events <- usersEvent("Bob", me) // Cy has not come back, but our old name is still there.
	w.waitFor(shown, "2 | Zoe | Bob")
	w.evaluate("now += 4100")
	crowd := make([]string, 100)
	for i := range crowd {
		crowd[i] = fmt.Sprint("Visitor ", i)
	}
	stream.events <- strings.Replace(usersEvent(crowd...), "100", "121", 1) // It is cut short.
	w.waitFor(shown, "121 | Zoe | "+strings.Join(crowd, " | ")+" | and 20 more")
	stream.events <- usersEvent("Bob", "Zoe")
	w.waitFor(shown, "2 | Zoe | Bob")
	stream.events <- usersEvent("Bob", me, "Zoe") // This is somebody else.
	w.waitFor(shown, "3 | Zoe | Bob | "+me)
	w.waitFor("texts('#lines .quiet')", "Dan, Eli joined | Dan, Eli left")
}

// checkComposing checks how a message is written and sent, and what a screen reader is told.
func checkComposing(t *testing.T, driver string) {
	c := startChat(t)
	w := openWindow(t, driver, c.URL)
	w.waitFor("document.activeElement.id", "message")
	w.waitFor("height = box('#message').height", w.evaluate("box('#send').height"))
	w.typeKeys("#message", "a"+shift+enter+release+"b")
	w.waitFor("box('#message').height > height", "true")
	for _, how := range []string{"isComposing: true", "keyCode: 229"} { // Enter picks a word.
		w.waitFor(`$("#message").dispatchEvent(new KeyboardEvent("keydown",
			{ key: "Enter", bubbles: true, cancelable: true, `+how+` }))`, "true")
	}
	w.typeKeys("#message", enter+enter+" "+enter+"c"+enter)
	w.typeKeys("#message", "d")
	w.typeKeys("#name", enter) // This does not send the message.
	w.evaluate("$('#name').focus(), $('#name').value = 'Ada'")
	w.click("#send") // This does, under the new name.
	w.waitFor("texts('.text, [data-id]:last-child .name')", "a\nb | c | Ada | d")
	w.waitFor("document.activeElement.id + $('#message').value", "message")
	w.evaluate("$('#message').style.display = 'none', $('#message').value = 'x'.repeat(6_000_000)")
	w.reload() // So long a draft cannot be kept, but the name can.
	w.waitFor("$('#name').value", "Ada")
	for _, want := range []string{"#log log Messages", "#lines list ", "#lines li listitem ",
		"#name textbox Your name", "#message textbox Message", "#send button Send",
		"#connect button Disconnect", "#state status ", "#why alert ", "#here list Names"} {
		var role, label string
		selector := regexp.MustCompile("^#[a-z]+( li\\b)?").FindString(want)
		w.withElement("GET", selector, "/computedrole", dict{}, &role)
		w.withElement("GET", selector, "/computedlabel", dict{}, &label)
		equal(t, "An element with its role and label", selector+" "+role+" "+label, want)
	}
	// On a touch screen, Enter makes a line, and the keyboard neither opens nor closes by itself.
	w.devTools("Emulation.setTouchEmulationEnabled", dict{"enabled": true})
	w.evaluate("$('#message').value = ''")
	w.reload()
	w.waitFor("document.activeElement.tagName", "BODY")
	w.typeKeys("#message", "e"+enter+"f")
	w.evaluate("$('#message').blur()")
	w.click("#send")
	w.waitFor("texts('[data-id]:last-child .text') + document.activeElement.tagName", "e\nfBODY")
}

// checkFailedPosts checks that no text is lost or sent twice, whatever happens to its post.
func checkFailedPosts(t *testing.T, driver string) {
	c := startFront(t, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		body, _ := io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(body))
		switch text := string(body); {
		case req.Header.Get("Sec-Fetch-Site") == "": // The post comes from this test.
			next.ServeHTTP(w, req)
		case strings.Contains(text, "no proxy"):
			w.WriteHeader(http.StatusBadGateway)
		case strings.Contains(text, "no connection"):
			panic(http.ErrAbortHandler)
		case strings.Contains(text, "no post"):
			<-req.Context().Done()
		case strings.Contains(text, "no answer"):
			next.ServeHTTP(httptest.NewRecorder(), req)
			<-req.Context().Done()
		default:
			next.ServeHTTP(w, req)
		}
	})
	w := openWindow(t, driver, c.URL, `const limit = AbortSignal.timeout;
		AbortSignal.timeout = ms => limit.call(AbortSignal, ms / 20);`)
	w.expected = "status of (413|502)|net::ERR_"
	w.rename("Ada")
	for _, row := range []struct{ text, reason string }{
		{strings.Repeat("x", maxMessage+1), fmt.Sprintf("A message is limited to %d characters.",
			maxMessage)},
		{"no proxy", "The server answered 502."},
		{"no connection", "The server cannot be reached."},
		{"no post", "The server did not answer. If six tabs are open, close one."},
	} {
		w.evaluate(fmt.Sprintf("$('#message').value = %q", row.text))
		w.typeKeys("#message", enter)
		w.waitFor("[$('#why').innerText, $('#message').value]", row.reason+","+row.text)
		w.waitFor("box('#message').top - box('#why').bottom < 50", "true")
		w.typeKeys("#message", "y")
		w.waitFor("$('#why').innerText", "")
		w.evaluate("$('#message').value = ''")
	}
	w.typeKeys("#message", "no proxy 1"+enter+"no proxy 2"+enter+"good"+enter)
	w.waitFor("[texts('.text'), $('#message').value]", "good,no proxy 1\nno proxy 2")
	w.evaluate("$('#message').value = ''")
	w.typeKeys("#message", "no post 1"+enter+"more")
	w.waitFor("texts('#send')", "Sending…")
	w.waitFor("texts('#send') + $('#message').value", "Sendno post 1\nmore")
	c.postMessage(t, "Bob", "no post 1") // This is somebody else's.
	w.waitFor("texts('.text') + $('#message').value", "good | no post 1no post 1\nmore")
	c.postMessage(t, "Ada", "no post 1") // Ours arrives after all.
	w.waitFor("$('#message').value + $('#why').innerText", "more")
	w.evaluate("$('#message').value = ''")
	w.typeKeys("#message", "no answer"+enter) // When its post fails, it has arrived.
	w.waitFor("texts('.text, #send')", "good | no post 1 | no post 1 | no answer | Sending…")
	w.waitFor("texts('#send') + $('#message').value + $('#why').innerText", "Send")
	w.typeKeys("#message", "no post 2"+enter) // An input method is not broken off.
	w.devTools("Input.imeSetComposition",
		dict{"text": "に", "selectionStart": 1, "selectionEnd": 1})
	w.waitFor("$('#why').innerText.includes('six tabs') && $('#message').value", "に")
	w.devTools("Input.insertText", dict{"text": "日"})
	w.waitFor("$('#message').value", "no post 2\n日")
}

// checkReconnecting checks when the page opens a new stream, and where that resumes.
func checkReconnecting(t *testing.T, driver string) {
	c, nextStream := startFeed(t)
	w := openWindow(t, driver, c.URL, `now = Date.now();
		Date.now = () => now;
		setInterval = f => tick = f;
		const wait = setTimeout;
		setTimeout = (f, ms, ...rest) => wait(f, ms > 1000 ? 50 : ms, ...rest);`)
	stream := nextStream()
	for _, wake := range []string{"tick()", "dispatchEvent(new Event('online'))",
		"document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))"} {
		w.evaluate("now += 10_000")
		stream.events <- strings.Replace(usersEvent("Ada"), "id: 1", "id: "+wake, 1)
		w.waitFor("state() + lastId", live+wake)
		w.evaluate("before = source, now += 44_000, " + wake)
		w.waitFor("before === source", "true")
		w.evaluate("now += 2000, " + wake) // The stream has been silent for too long.
		stream = nextStream()
		equal(t, "The place after the silence", stream.after, wake)
		w.waitFor("before.readyState + state()", "2connecting,connecting | disconnect")
		w.evaluate("before = source, tick()") // The new stream has as much time.
		w.waitFor("before === source", "true")
	}
	stream.events <- usersEvent("Ada")
	w.waitFor("state()", live)
	w.typeKeys("#message", "lost"+enter) // This is accepted, but does not come back.
	stream = nextStream()
	stream.events <- usersEvent("Ada")
	w.waitFor("state()", live)
	close(stream.events) // The browser opens a new stream by itself.
	stream = nextStream()
	equal(t, "The place after a break", stream.after, "1")
	stream.events <- usersEvent("Ada")
	w.waitFor("state()", live)
	w.click("#connect")
	w.evaluate("before = source, now += 46_000, tick()")
	w.waitFor("before === source && state()", "disconnected,disconnected | connect")
}

// checkRestart disconnects the page, and then restarts the server: the page catches up.
func checkRestart(t *testing.T, driver string) {
	var streams atomic.Int32
	var isRestarted atomic.Bool
	restarted, _ := newRoom(t.Context()).handler("")
	c := startFront(t, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		switch {
		case req.URL.Path == "/events" && streams.Add(1) <= 2:
			w.WriteHeader(http.StatusBadGateway) // The browser gives up, so the page has to try.
		case isRestarted.Load():
			restarted.ServeHTTP(w, req)
		default:
			next.ServeHTTP(w, req)
		}
	})
	w := openWindow(t, driver, c.URL,
		"const every = setInterval; setInterval = (f, ms) => every(f, ms / 20)")
	w.expected = "status of 502|net::ERR_"
	c.postMessage(t, "Bob", "1")
	w.waitFor("state() + texts('.text')", live+"1")
	w.click("#connect")
	w.waitFor("state()", "disconnected,disconnected | connect")
	const shape = `getComputedStyle($("#state"), "::before").content[1]`
	w.waitFor(shape, "✕") // Without colours, only this tells the states apart.
	c.postMessage(t, "Bob", "2")
	w.typeKeys("#message", "3"+enter)
	w.waitFor("/^Sent/.test($('#why').innerText) && texts('.text')", "1")
	w.click("#connect")
	w.waitFor("state() + $('#why').innerText + texts('.text')", live+"1 | 2 | 3")
	w.waitFor(shape, "●")
	isRestarted.Store(true)
	c.stop()
	w.waitFor("state()", "connecting,connecting | disconnect")
	w.waitFor(shape, "○")
	c.postMessage(t, "Bob", "4")
	w.waitFor("texts('.text, .quiet')", "1 | 2 | 3 | Some messages may be missing here. | 4")
}

// checkLayout checks how the log scrolls, and that everything can be reached and read.
func checkLayout(t *testing.T, driver string) {
	c := startChat(t)
	w := openWindow(t, driver, c.URL)
	w.waitFor("box('#empty a').height > 20 && $('#empty a').target", "_blank")
	for i := range 600 { // The page has to remove its oldest lines.
		c.postMessage(t, "Bob", fmt.Sprint(i, strings.Repeat(" and", 50)))
	}
	const follows = `!shows($("#newer")) && shows($("#lines > :last-child")) &&
		Math.abs(box("#log").bottom - box("#lines > :last-child").bottom) < 20`
	w.waitFor("/^599 /.test(texts('[data-id]:last-child .text')) && all('#log p').length", "500")
	w.waitFor(follows, "true")
	w.typeKeys("#message", shift+enter+enter+release) // The field grows.
	w.waitFor(follows, "true")
	for _, way := range []string{"newer", "message"} { // A sender wants to see what was sent.
		w.evaluate("(old = $('#lines > *')).scrollIntoView()")
		w.waitFor("isAtEnd", "false")
		w.evaluate("place = old.getBoundingClientRect().top")
		c.postMessage(t, "Bob", way)
		w.waitFor("texts('[data-id]:last-child .text')", way)
		w.waitFor("shows($('#newer')) && old.getBoundingClientRect().top === place", "true")
		w.typeKeys("#message", "mine")
		w.typeKeys("#"+way, enter)
		w.waitFor(follows, "true")
		w.waitFor("document.activeElement.id", "message")
	}
	w.rename(strings.Repeat("W", maxName))
	long, tall := strings.Repeat("W", maxMessage), strings.Repeat("🙂\n", 50)
	for _, text := range []string{"a", long, tall} {
		c.postMessage(t, strings.Repeat("M", maxName), text)
		c.postMessage(t, strings.Repeat("W", maxName), text)
	}
	for _, size := range []struct{ width, height int }{
		{320, 640}, {320, 256}, {740, 360}, {1440, 900},
	} {
		for _, scheme := range []string{"light", "dark"} {
			w.devTools("Emulation.setDeviceMetricsOverride", dict{"width": size.width,
				"height": size.height, "deviceScaleFactor": 1, "mobile": false})
			w.devTools("Emulation.setEmulatedMedia", dict{"features": []dict{
				{"name": "prefers-color-scheme", "value": scheme}}})
			w.reload()
			w.waitFor("$('#wire').open", fmt.Sprint(size.width >= 720)) // as in the two-tab demo
			w.evaluate("$('#wire').open = true")
			w.waitFor("all('#wire-log li').length > 0", "true")
			w.waitFor(`["html", "#log", "form", "aside", "#wire"].filter(s =>
				$(s).scrollWidth > $(s).clientWidth + 1)`, "")
			w.waitFor(`["#state", "#connect", "#count", "#here li", "#wire summary", "#name",
				"#wire-log li:last-child", "[data-id] .text", "[data-id]:last-child .text",
				"#message", "#send"].filter(s => {
				$(s).scrollIntoView({ block: "center", inline: "start" });
				return !shows($(s));
			})`, "")
			w.evaluate("scrollTo(0, 0)")
			w.waitFor("shows($('#message')) && box('#log').height > 90", "true")
		}
	}
	w.devTools("Emulation.setEmulatedMedia", dict{"media": "print"})
	w.waitFor("$('#log').scrollHeight === $('#log').clientHeight && box('form').height", "0")
	w.waitFor("getComputedStyle($('.own .text')).color === getComputedStyle($('h1')).color", "true")
}

// THE README

// TestReadme runs the README's transcript, and checks that its code is the small version above.
func TestReadme(t *testing.T) {
	content, err := os.ReadFile("README.md")
	must(t, err)
	tests, err := os.ReadFile("server_test.go")
	must(t, err)
	code := between(string(content), "```go\n", "```\n")
	contains(t, "The README's code", code, "type smallChat")
	contains(t, "This file", string(tests), code)
	if _, err := exec.LookPath("curl"); err != nil && os.Getenv("CI") == "" {
		t.Skip("The transcript is not run here, because curl is not installed.")
	}
	c := startChat(t)
	varying := regexp.MustCompile(`(retry: |id: |"time":").*`)
	steps := strings.Split("\n"+between(string(content), "```console\n", "```\n"), "\n$ ")[1:]
	for _, step := range steps {
		command, want, _ := strings.Cut(step, "\n")
		shell := strings.ReplaceAll(command, "localhost:3000", c.URL)
		got, _ := exec.Command("sh", "-c", shell).Output() // When -m ends a stream, curl fails.
		output := strings.TrimSpace(varying.ReplaceAllString(string(got), "$1"))
		want = strings.TrimSpace(varying.ReplaceAllString(want, "$1"))
		equal(t, "The output of "+command, output, want)
	}
	if len(steps) < 3 {
		t.Errorf("The README has only %d commands in its transcript.", len(steps))
	}
}

// HELPERS

// TestMain lets the test binary be the chat, in a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("SSECHAT") != "" {
		main()
		return
	}
	log.SetOutput(io.Discard) // net/http would log the broken connections.
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
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

// between returns what is between two texts.
func between(text, start, end string) string {
	_, text, _ = strings.Cut(text, start)
	text, _, _ = strings.Cut(text, end)
	return text
}

func readAll(t testing.TB, from io.Reader) string {
	t.Helper()
	content, err := io.ReadAll(from)
	must(t, err)
	return string(content)
}

// A chat is a server, and a client of it. The client does not follow redirects.
type chat struct {
	URL      string
	client   http.Client
	connect  func(ctx context.Context, network, addr string) (net.Conn, error)
	patience time.Duration // how long a test waits for anything
	stop     func()        // ends the server as ^C does, and waits until it has ended
}

// chatAt returns the chat at an address.
func chatAt(url string) *chat {
	c := &chat{URL: url, connect: new(net.Dialer).DialContext, patience: patience}
	c.client.Transport = &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return c.connect(ctx, network, addr)
		}}
	c.client.CheckRedirect = func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}
	return c
}

// patience is how long a test waits for anything on a real socket.
const patience = 20 * time.Second

// startChat starts a chat, which ends with the test.
func startChat(t testing.TB) *chat { return startChatOn(t, listen(t, "127.0.0.1:0"), "") }

// startChatOn starts a chat on a listener, with a value for -origin.
func startChatOn(t testing.TB, listener net.Listener, origin string) *chat {
	ctx, cancel := context.WithCancel(context.Background())
	handler, err := newRoom(ctx).handler(origin)
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- serve(ctx, listener, handler) }()
	c := chatAt("http://" + listener.Addr().String())
	c.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			equal(t, "The error from serve", err, nil)
		case <-time.After(c.patience):
			t.Errorf("The server did not stop within %v.", c.patience)
		}
	})
	t.Cleanup(c.stop)
	return c
}

// listen listens on a real socket.
func listen(t testing.TB, addr string) net.Listener {
	listener, err := net.Listen("tcp", addr)
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener
}

// inBubble runs a test with a chat, and with a clock that jumps ahead whenever all goroutines
// wait. The connections are in memory and have no buffers: a write waits until the other side
// reads.
func inBubble(t *testing.T, test func(t *testing.T, c *chat)) {
	inBubbleWith(t, startChatOn, test)
}

// inBubbleWith is inBubble for any server that start starts.
func inBubbleWith(t *testing.T, start func(testing.TB, net.Listener, string) *chat,
	test func(t *testing.T, c *chat)) {
	defer time.AfterFunc(time.Minute, func() {
		panic(t.Name() + " is waiting for something other than time, perhaps for a mutex.")
	}).Stop()
	synctest.Test(t, func(t *testing.T) {
		n := network{conns: make(chan net.Conn)}
		n.closed, n.close = context.WithCancel(context.Background())
		c := start(t, n, "")
		c.connect = n.connect
		c.patience = 48 * time.Hour
		test(t, c)
	})
}

// A network is a listener whose connections are in memory.
type network struct {
	conns  chan net.Conn
	closed context.Context
	close  context.CancelFunc
}

func (n network) connect(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	n.conns <- server
	return client, nil
}

func (n network) Accept() (net.Conn, error) {
	select {
	case conn := <-n.conns:
		return conn, nil
	case <-n.closed.Done():
		return nil, net.ErrClosed
	}
}

func (n network) Close() error   { n.close(); return nil }
func (n network) Addr() net.Addr { return &net.UnixAddr{Name: "bubble"} }

// dial opens a connection, for what a client of net/http cannot do.
func (c *chat) dial(t testing.TB) net.Conn {
	t.Helper()
	conn, err := c.connect(t.Context(), "tcp", strings.TrimPrefix(c.URL, "http://"))
	must(t, err)
	conn.SetDeadline(time.Now().Add(c.patience))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// request sends a request, with headers such as "Origin: null". One without a value is left out.
func (c *chat) request(t testing.TB, method, path, kind, body string,
	header ...string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), c.patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, strings.NewReader(body))
	must(t, err)
	for _, line := range append(header, "Content-Type: "+kind) {
		if key, value, _ := strings.Cut(line, ": "); value != "" {
			req.Header.Set(key, value)
		}
	}
	resp, err := c.client.Do(req)
	must(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// postMessage posts a message, which must be accepted.
func (c *chat) postMessage(t testing.TB, name, text string) {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"name": name, "message": text})
	resp := c.request(t, "POST", "/message", jsonType, string(body))
	equal(t, "The status of a post", resp.StatusCode, http.StatusOK)
}

// postMany posts the messages <b>1, <b>2, and so on, over one connection.
func (c *chat) postMany(t testing.TB, name string, count int) {
	t.Helper()
	conn := c.dial(t)
	go func() {
		for i := range count {
			body := fmt.Sprintf(`{"name":%q,"message":"<b>%d"}`, name, i+1)
			io.WriteString(conn, postRequest(len(body), body))
		}
	}()
	answers := bufio.NewReader(conn)
	for range count {
		resp, err := http.ReadResponse(answers, nil)
		must(t, err)
		equal(t, "The status of a post", resp.StatusCode, http.StatusOK)
		readAll(t, resp.Body)
	}
}

// postRequest returns a JSON post as it goes over the wire. Its header may announce a longer body.
func postRequest(length int, body string) string {
	return fmt.Sprintf("POST /message HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n%s", length, body)
}

// users returns the data of a users event.
func users(names ...string) string {
	list, _ := json.Marshal(append([]string{}, names...))
	return fmt.Sprintf(`{"count":%d,"names":%s}`, len(names), list)
}

// A reader reads a stream. It accepts only what this server is meant to write.
type reader struct {
	header           http.Header
	transferEncoding string
	close            func() error
	lines            *bufio.Reader
	lastID           string
	data             string // of the last event
	users            string // the latest list of who is here
	retry            int    // the latest
}

// openStream opens a stream, and reads its first event.
func (c *chat) openStream(t testing.TB, query string, header ...string) *reader {
	t.Helper()
	resp := c.request(t, "GET", "/events"+query, "", "", header...)
	r := &reader{header: resp.Header, close: resp.Body.Close}
	r.transferEncoding = strings.Join(resp.TransferEncoding, ", ")
	r.lines = bufio.NewReader(resp.Body)
	equal(t, "The first event", r.nextEvent(t), "users")
	return r
}

// eventPattern is how the server writes an event: as one whole block, with data before the id.
var eventPattern = regexp.MustCompile(
	`^(?:event: ([a-z]+)\n)?data: ([^\r\n\x{85}]+)\nid: (\d+)\n(?:retry: (\d+)\n)?\n$`)

// nextEvent reads the next event, and returns its type, which is empty for a message. At the end
// of the stream, it returns "end".
func (r *reader) nextEvent(t testing.TB) string {
	t.Helper()
	block := ""
	for !strings.HasSuffix(block, "\n\n") {
		line, err := r.lines.ReadString('\n')
		block += line
		if err != nil {
			equal(t, "What is left at the end of the stream", block, "")
			return "end"
		}
	}
	parts := eventPattern.FindStringSubmatch(block)
	if parts == nil || !utf8.ValidString(block) || !json.Valid([]byte(parts[2])) {
		t.Fatalf("%q is not an event that this server should write.", block)
	}
	before, _ := strconv.Atoi(r.lastID)
	id, _ := strconv.Atoi(parts[3])
	if r.lastID != "" && (parts[1] == "" && id != before+1 || parts[1] == "users" && id != before) {
		t.Fatalf("%q cannot come after the id %d.", block, before)
	}
	r.data, r.lastID = parts[2], parts[3]
	if parts[1] == "users" {
		r.users = r.data
		r.retry, _ = strconv.Atoi(parts[4])
	}
	return parts[1]
}

// nextMessage skips lists of who is here, and returns the next event, which must be a message.
func (r *reader) nextMessage(t testing.TB) (m message) {
	t.Helper()
	kind := r.nextEvent(t)
	for kind == "users" {
		kind = r.nextEvent(t)
	}
	if err := json.Unmarshal([]byte(r.data), &m); err != nil || kind != "" {
		t.Fatalf("An event %q with %q came, want a message.", kind, r.data)
	}
	m.ID, _ = strconv.ParseInt(r.lastID, 10, 64)
	return m
}

// nextUsers returns the next event, which must be a list of who is here.
func (r *reader) nextUsers(t testing.TB) string {
	t.Helper()
	equal(t, "The event", r.nextEvent(t), "users")
	return r.users
}

// A process is a program in a process of its own.
type process struct {
	cmd     *exec.Cmd
	lines   *bufio.Scanner
	output  string // the lines so far
	address string // where it listens, as the last of them says
}

// startProcess starts a program, and waits until it says where it listens, or ends. The program is
// ChromeDriver, or the test binary itself, which is then the chat.
func startProcess(t testing.TB, path string, args ...string) *process {
	p := &process{cmd: exec.Command(path, args...)}
	p.cmd.Env = append(os.Environ(), "SSECHAT=1")
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	p.cmd.Stderr = p.cmd.Stdout
	must(t, p.cmd.Start())
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	p.lines = bufio.NewScanner(out)
	listens := regexp.MustCompile(` (?:at|successfully on port) (http\S+|\d+)`)
	for p.address == "" && p.lines.Scan() {
		p.output += p.lines.Text() + "\n"
		if found := listens.FindStringSubmatch(p.lines.Text()); found != nil {
			p.address = found[1]
		}
	}
	return p
}

// wait waits until the process has ended, and returns its exit status, or -1 after a signal.
func (p *process) wait() int {
	for p.lines.Scan() {
		p.output += p.lines.Text() + "\n"
	}
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// A window is a window of Chromium. ChromeDriver speaks JSON (https://www.w3.org/TR/webdriver2).
type window struct {
	t        *testing.T
	session  string // its URL
	expected string // a pattern for what the test makes the browser complain about
}

type dict map[string]any

// These are WebDriver's names for keys. The last one releases the others.
const enter, shift, release = "\uE007", "\uE008", "\uE000"

const live = "live,live | disconnect" // the state of a page, and its button

// startDriver starts ChromeDriver for all windows of a test, and returns its URL.
func startDriver(t *testing.T) (url string) {
	if _, err := exec.LookPath("chromedriver"); err != nil && os.Getenv("CI") == "" {
		t.Skip("The page is not tested here, because ChromeDriver is not installed.")
	}
	return "http://127.0.0.1:" + startProcess(t, "chromedriver", "--port=0").address
}

// openWindow opens the page in a window, where a script may run before the page's own. At the end
// of the test, the browser's console must show nothing unexpected.
func openWindow(t *testing.T, driver, url string, script ...string) *window {
	t.Helper()
	args := []string{"--headless=new", "--lang=en-US"}
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // Root cannot use the sandbox.
	}
	var made struct{ SessionID string }
	w := &window{t: t, session: driver + "/session"}
	w.command("POST", "", dict{"capabilities": dict{"alwaysMatch": dict{
		"goog:loggingPrefs": dict{"browser": "ALL"}, "goog:chromeOptions": dict{"args": args},
	}}}, &made)
	w.session += "/" + made.SessionID
	t.Cleanup(func() {
		var console []struct{ Message string }
		w.command("POST", "/se/log", dict{"type": "browser"}, &console)
		for _, line := range console {
			if w.expected == "" || !regexp.MustCompile(w.expected).MatchString(line.Message) {
				t.Errorf("The browser's console says %q.", line.Message)
			}
		}
		w.command("DELETE", "", dict{}, nil)
	})
	w.devTools("Page.addScriptToEvaluateOnNewDocument", dict{"source": strings.Join(script, "")})
	w.devTools("Emulation.setTimezoneOverride", dict{"timezoneId": "Asia/Tokyo"})
	w.load(url)
	return w
}

// command sends a WebDriver command to this window, and decodes the value that it returns.
func (w *window) command(method, path string, parameters dict, value any) {
	w.t.Helper()
	body, _ := json.Marshal(parameters)
	req, _ := http.NewRequest(method, w.session+path, bytes.NewReader(body))
	patient := http.Client{Timeout: 3 * patience} // A browser may take a while to start.
	resp, err := patient.Do(req)
	must(w.t, err)
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("ChromeDriver answered %.999s to %s %.999s.", answer, path, body)
	}
	json.Unmarshal(answer, &struct{ Value any }{value})
}

func (w *window) load(url string)       { w.command("POST", "/url", dict{"url": url}, nil) }
func (w *window) reload()               { w.command("POST", "/refresh", dict{}, nil) }
func (w *window) click(selector string) { w.withElement("POST", selector, "/click", dict{}, nil) }
func (w *window) typeKeys(selector, keys string) {
	w.withElement("POST", selector, "/value", dict{"text": keys}, nil)
}

// devTools sends a command of the Chrome DevTools Protocol, for what WebDriver cannot do.
func (w *window) devTools(name string, parameters dict) {
	w.t.Helper()
	w.command("POST", "/goog/cdp/execute", dict{"cmd": name, "params": parameters}, nil)
}

// withElement sends a command to an element of the page.
func (w *window) withElement(method, selector, path string, parameters dict, value any) {
	w.t.Helper()
	var found map[string]string // one entry, whose key does not matter
	w.command("POST", "/element", dict{"using": "css selector", "value": selector}, &found)
	for _, id := range found {
		w.command(method, "/element/"+id+path, parameters, value)
	}
}

func (w *window) rename(name string) {
	w.t.Helper()
	w.evaluate("$('#name').value = ''")
	w.typeKeys("#name", name+enter)
}

// evaluate returns the value of a JavaScript expression as a string.
func (w *window) evaluate(expression string) (value string) {
	w.t.Helper()
	w.command("POST", "/execute/sync", dict{"args": []any{}, "script": `
		const $ = selector => document.querySelector(selector);
		const all = selector => [...document.querySelectorAll(selector)];
		const texts = selector => all(selector).map(e => e.textContent.trim()).join(" | ");
		const state = () => [$("#state").dataset.state, texts("#state, #connect").toLowerCase()];
		const box = selector => $(selector).getBoundingClientRect();
		const shows = (e, b = e.getBoundingClientRect()) => e.contains(document.elementFromPoint(
			b.left + Math.min(b.width / 2, 20), b.top + b.height / 2));
		try {
			return String(` + expression + `);
		} catch (error) {
			return String(error);
		}`}, &value)
	return value
}

// waitFor waits until a JavaScript expression has the value want.
func (w *window) waitFor(expression, want string) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		got := w.evaluate(expression)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s is still\n%.999q, want\n%.999q.", expression, got, want)
		}
	}
}

// startFront starts a server whose handle may pass requests on to a chat. To stop it breaks all its
// connections.
func startFront(t *testing.T, handle func(http.ResponseWriter, *http.Request, http.Handler)) *chat {
	next, err := newRoom(t.Context()).handler("")
	must(t, err)
	serve := func(w http.ResponseWriter, req *http.Request) { handle(w, req, next) }
	server := httptest.NewServer(http.HandlerFunc(serve))
	t.Cleanup(server.Close) // after the next line, because it waits for all requests
	t.Cleanup(server.CloseClientConnections)
	c := chatAt(server.URL)
	c.stop = server.CloseClientConnections
	return c
}

// A feed is a stream that carries what the test sends, and ends when the test closes events.
type feed struct {
	after  string // the place that the reader asked for
	events chan string
}

// startFeed starts a chat whose streams are feeds, and returns how to wait for the next one.
func startFeed(t *testing.T) (c *chat, nextStream func() feed) {
	streams := make(chan feed, 10)
	c = startFront(t, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.URL.Path != "/events" {
			next.ServeHTTP(w, req)
			return
		}
		after := cmp.Or(req.Header.Get("Last-Event-ID"), req.FormValue("after"))
		stream := feed{after: after, events: make(chan string, 10)}
		streams <- stream
		w.Header().Set("Content-Type", "text/event-stream")
		for text, isOpen := ":\nretry: 10\n\n", true; isOpen; {
			io.WriteString(w, text)
			http.NewResponseController(w).Flush()
			select {
			case text, isOpen = <-stream.events:
			case <-req.Context().Done():
				return
			}
		}
	})
	return c, func() (stream feed) {
		t.Helper()
		select {
		case stream = <-streams:
		case <-time.After(patience):
			t.Fatal("The page has not opened another stream.")
		}
		return stream
	}
}

// messageEvent returns an event that is a message of 20 November 2026.
func messageEvent(id, name, text, time string) string {
	return fmt.Sprintf("data: {\"name\":%q,\"message\":%q,\"time\":\"2026-11-20T%sZ\"}\nid: %s\n\n",
		name, text, time, id)
}

// usersEvent returns an event that says who is here.
func usersEvent(names ...string) string {
	return "event: users\ndata: " + users(names...) + "\nid: 1\n\n"
}

// BENCHMARKS

// BenchmarkBurst posts 500 messages as fast as possible to 1,000 readers.
func BenchmarkBurst(b *testing.B) {
	const readers, messages = 1000, 500
	besideFloor(b, func(b *testing.B, c *chat) {
		streams := openStreams(b, c, readers)
		for b.Loop() {
			var reading sync.WaitGroup
			for _, stream := range streams {
				reading.Go(func() { readObjects(b, stream, messages) })
			}
			c.postMany(b, "Ada", messages)
			reading.Wait()
		}
		deliveries := float64(b.N * readers * messages)
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/deliveries, "ns/delivery")
	})
}

// BenchmarkIdle measures the memory that each of 5,000 readers takes while nobody posts.
func BenchmarkIdle(b *testing.B) {
	const readers = 5000
	memory := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse + m.StackInuse)
	}
	besideFloor(b, func(b *testing.B, c *chat) {
		before := memory()
		openStreams(b, c, readers)
		used := memory() - before
		for b.Loop() {
			// One measurement is enough, and there are not enough file descriptors for more.
		}
		b.ReportMetric(used/readers, "B/reader")
	})
}

// besideFloor measures the chat, and then the floor, which is the simplest server that does the
// same: a loop that writes each message to each connection.
func besideFloor(b *testing.B, measure func(*testing.B, *chat)) {
	b.Run("chat", func(b *testing.B) { measure(b, startChat(b)) })
	b.Run("floor", func(b *testing.B) { measure(b, startFloor(b)) })
}

// openStreams opens many streams, and reads the list of who is here from each.
func openStreams(b *testing.B, c *chat, count int) []net.Conn {
	streams := make([]net.Conn, count)
	for i := range streams {
		streams[i] = c.dial(b)
		streams[i].SetDeadline(time.Time{})
		io.WriteString(streams[i], "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
		readObjects(b, streams[i], 1)
	}
	return streams
}

// readObjects reads a stream until a number of JSON objects has ended.
func readObjects(b *testing.B, stream net.Conn, count int) {
	piece := make([]byte, 16<<10)
	for count > 0 {
		n, err := stream.Read(piece)
		if err != nil {
			b.Error(err)
			return
		}
		count -= bytes.Count(piece[:n], []byte("}"))
	}
}

// startFloor starts the floor. It writes to connections that it has taken from net/http.
func startFloor(b testing.TB) *chat {
	var mu sync.Mutex
	var readers []net.Conn
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, req *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		first := "event: users\ndata: " + users() + "\nid: 1\nretry: 1000\n\n"
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n",
			len(first), first)
		mu.Lock()
		readers = append(readers, conn)
		mu.Unlock()
	})
	mux.HandleFunc("POST /message", func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		event := fmt.Sprintf("data: %s\nid: 1\n\n", body)
		chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(event), event)
		mu.Lock()
		defer mu.Unlock()
		for _, reader := range readers {
			reader.Write(chunk)
		}
	})
	server := httptest.NewServer(mux)
	b.Cleanup(server.Close)
	return chatAt(server.URL)
}
