package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
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

// TestMain lets the test binary be what a test needs in a process of its own: the
// chat itself, or the readers of a benchmark.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("SSECHAT_MAIN") != "":
		main()
	case os.Getenv("SSECHAT_LOAD") != "":
		runLoad(os.Getenv("SSECHAT_LOAD"))
	default:
		log.SetOutput(io.Discard) // where each room is
		os.Exit(m.Run())
	}
}

func TestParsePost(t *testing.T) {
	tests := []struct {
		name           string
		kind, body     string
		wantName, text string
		malformed      bool
	}{
		{"form", formType, "name=Ada&message=hello", "Ada", "hello", false},
		{"form without name", formType, "message=hello", "guest", "hello", false},
		{"form with blank name", formType, "name=+&message=hello", "guest", "hello", false},
		{"form with other fields", formType, "message=hello&x=y", "guest", "hello", false},
		{"form with two messages", formType, "message=one&message=two", "guest", "one", false},
		{"form with nothing", formType, "", "guest", "", false},
		{"form with bad escape", formType, "message=%zz", "", "", true},
		{"form with semicolon", formType, "name=a;message=b", "", "", true},
		{"JSON", jsonType, `{"name":"Ada","message":"hello"}`, "Ada", "hello", false},
		{"JSON without name", jsonType, `{"message":"hello"}`, "guest", "hello", false},
		{"JSON with null", jsonType, `{"name":null,"message":"hello"}`, "guest", "hello", false},
		{"JSON with space around it", jsonType, " {\"message\":\"hello\"}\n", "guest", "hello", false},
		{"JSON with trailing brace", jsonType, `{"message":"hello"}}`, "guest", "", true},
		{"JSON with trailing object", jsonType, `{"message":"hello"} {}`, "guest", "", true},
		{"JSON with number", jsonType, `{"message":1}`, "guest", "", true},
		{"JSON array", jsonType, `["hello"]`, "guest", "", true},
		{"JSON cut short", jsonType, `{"message":"hel`, "guest", "", true},
		{"JSON that is empty", jsonType, "", "guest", "", true},
		{"blanks around", formType, "message=%20%0A hello %0D%0A&name=%20Ada%20", "Ada", "hello", false},
		{"line ends", formType, "message=a%0D%0Ab%0Dc%0Ad", "guest", "a\nb\nc\nd", false},
		{"bytes that are not UTF-8", formType, "message=a%FFb", "guest", "a\uFFFDb", false},
		{"half a surrogate pair", jsonType, `{"message":"a\ud800b"}`, "guest", "a\uFFFDb", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			name, text, err := parsePost(test.kind, []byte(test.body))
			if test.malformed != (err != nil) {
				t.Fatalf("error is %v", err)
			}
			if err == nil && (name != test.wantName || text != test.text) {
				t.Errorf("got name %q and text %q, want %q and %q", name, text, test.wantName, test.text)
			}
		})
	}
}

func TestIsName(t *testing.T) {
	tests := []struct {
		label, name string
		want        bool
	}{
		{"empty", "", true},
		{"plain", "Ada Lovelace", true},
		{"50 characters", strings.Repeat("é", 50), true},
		{"51 characters", strings.Repeat("é", 51), false},
		{"family emoji", "👩‍👩‍👧", true},
		{"two lines", "Ada\nBob", false},
		{"Unicode line separator", "Ada\u2028Bob", false},
		{"next line", "Ada\u0085Bob", false},
	}
	for _, test := range tests {
		t.Run(test.label, func(t *testing.T) {
			if got := isName(test.name); got != test.want {
				t.Errorf("isName(%q) = %v", test.name, got)
			}
		})
	}
}

func TestFormatUsers(t *testing.T) {
	crowd := make([]string, 150)
	for i := range crowd {
		crowd[i] = fmt.Sprintf("%03d", i)
	}
	tests := []struct {
		name   string
		sorted []string
		want   string
	}{
		{"nobody", []string{}, `{"count":0,"names":[]}`},
		{"two", []string{"Ada", "Bob"}, `{"count":2,"names":["Ada","Bob"]}`},
		{"one with two tabs", []string{"Ada", "Ada"}, `{"count":1,"names":["Ada"]}`},
		{"more than are listed", crowd, `{"count":150,"names":["` + strings.Join(crowd[:100], `","`) + `"]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got, want := formatUsers(test.sorted), "event: users\ndata: "+test.want+"\n\n"; got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// TestTwoTabs is the demo: one posts, both receive, and who comes late sees the same.
func TestTwoTabs(t *testing.T) {
	addr := start(t, "")
	ada := subscribe(t, addr, "?name=Ada", "")
	bob := subscribe(t, addr, "?name=Bob", "")
	begun := time.Now().Truncate(time.Microsecond)
	post(t, addr, "Ada", "hello")
	post(t, addr, "Bob", "hello yourself,\nand\n\nmore lines <b>")
	want := ada.messages(2)
	if want[0].Name != "Ada" || want[0].Text != "hello" || want[1].Text != "hello yourself,\nand\n\nmore lines <b>" {
		t.Errorf("Ada received %v", want)
	}
	equal(t, bob.messages(2), want)
	equal(t, subscribe(t, addr, "", "").messages(2), want)
	if !slices.IsSortedFunc(want, func(a, b said) int { return int(a.ID - b.ID) }) {
		t.Errorf("ids do not increase: %v", want)
	}
	for _, m := range want {
		if m.Time.UnixMicro() != m.ID || m.Time.Before(begun) || m.Time.After(time.Now()) {
			t.Errorf("message %d has the time %v", m.ID, m.Time)
		}
	}
}

// TestStart looks at the very bytes: they come at once, also in an empty room.
func TestStart(t *testing.T) {
	addr := start(t, "")
	resp := do(t, "GET", addr+"/events?name=Ada", "", "")
	for key, want := range map[string]string{
		"Content-Type":      "text/event-stream",
		"Cache-Control":     "no-cache",
		"X-Accel-Buffering": "no",
	} {
		if got := resp.Header.Get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	var retry, id int
	var users string
	n, err := fmt.Fscanf(resp.Body, "retry: %d\nid: %d\n\nevent: users\ndata: %s\n\n", &retry, &id, &users)
	if err != nil || retry < 1000 || retry > 3000 || users != `{"count":1,"names":["Ada"]}` {
		t.Errorf("scanned %d: retry %d, id %d, users %s, error %v", n, retry, id, users, err)
	}
	// A HEAD ends: what is asked after it on the same connection is answered.
	conn := dial(t, addr)
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(conn, "HEAD /events HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.0\r\n\r\n")
	answers, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(answers, []byte("text/event-stream")) || !bytes.Contains(answers, []byte("404")) {
		t.Errorf("HEAD: %s %v", answers, err)
	}
}

// TestPost has what is refused, why, and that no reader ever sees it.
func TestPost(t *testing.T) {
	addr := start(t, "")
	reader := subscribe(t, addr, "", "")
	long := strings.Repeat("é", 2000)
	tests := []struct {
		name, kind, body string
		header           string
		status           int
		want             string // in the answer
	}{
		{name: "form", kind: formType, body: "message=1&name=Ada", status: 302},
		{name: "form with charset", kind: formType + "; charset=UTF-8", body: "message=2", status: 302},
		{name: "JSON", kind: jsonType, body: `{"message":"3","name":"Ada"}`, status: 200, want: `{"name":"Ada","message":"3","time":"2`},
		{name: "as long as can be", kind: formType, body: "message=++" + url.QueryEscape(long), status: 302},
		{name: "from the same origin", kind: formType, body: "message=5", header: "Sec-Fetch-Site: same-origin", status: 302},
		{name: "blank", kind: formType, body: "message=+%0A", status: 400, want: "The message is blank.\n"},
		{name: "nothing", kind: formType, status: 400, want: "The message is blank.\n"},
		{name: "malformed form", kind: formType, body: "message=%", status: 400, want: "malformed"},
		{name: "malformed JSON", kind: jsonType, body: `{"message":"a"}]`, status: 400, want: "malformed"},
		{name: "number", kind: jsonType, body: `{"message":7}`, status: 400, want: "malformed"},
		{name: "name of two lines", kind: formType, body: "message=a&name=b%0Ac", status: 400, want: "A name is one line of at most 50 characters.\n"},
		{name: "long name", kind: jsonType, body: `{"message":"a","name":"` + long[:102] + `"}`, status: 400, want: "at most 50 characters"},
		{name: "too long", kind: formType, body: "message=" + url.QueryEscape(long+"é"), status: 413, want: "A message has at most 2000 characters.\n"},
		{name: "far too long", kind: jsonType, body: `{"message":"` + strings.Repeat("x", 1<<20) + `"}`, status: 413, want: "at most 2000 characters"},
		{name: "plain text", kind: "text/plain", body: "message=a", status: 415, want: "A message comes as a form or as JSON.\n"},
		{name: "no type", body: "message=a", status: 415},
		{name: "multipart", kind: "multipart/form-data; boundary=x", body: strings.Repeat("x", 1<<20), status: 415},
		{name: "from another site", kind: formType, body: "message=a", header: "Sec-Fetch-Site: cross-site", status: 403, want: "cross-origin request detected from Sec-Fetch-Site header\n"},
		{name: "from another origin", kind: jsonType, body: `{"message":"a"}`, header: "Origin: https://evil.example", status: 403},
		{name: "from no origin", kind: formType, body: "message=a", header: "Origin: null", status: 403},
	}
	accepted := 0
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			resp := do(t, "POST", addr+"/message?message=query", test.kind, test.body, test.header)
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != test.status || !strings.Contains(string(body), test.want) {
				t.Errorf("got %d %s, want %d %s", resp.StatusCode, body, test.status, test.want)
			}
			if test.status == 302 && resp.Header.Get("Location") != "/" {
				t.Errorf("redirects to %q", resp.Header.Get("Location"))
			}
			if test.status == 200 && resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("answers %q", resp.Header.Get("Content-Type"))
			}
		})
		if test.status < 400 {
			accepted++
		}
	}
	post(t, addr, "", "last")
	got := reader.messages(accepted + 1)
	for i, want := range []string{"1", "2", "3", long, "5", "last"} {
		if got[i].Text != want {
			t.Errorf("message %d is %.20q, want %.20q", i, got[i].Text, want)
		}
	}
}

// TestStored has a script that posts JSON learn what was sent, byte for byte.
func TestStored(t *testing.T) {
	addr := start(t, "")
	resp := do(t, "POST", addr+"/message", jsonType, `{"message":" <b>\r\nhi "}`)
	stored, _ := io.ReadAll(resp.Body)
	if event := subscribe(t, addr, "", "").next(); event.data+"\n" != string(stored) {
		t.Errorf("stored %s\nstream %s", stored, event.data)
	}
}

func TestNotThere(t *testing.T) {
	addr := start(t, "")
	for _, test := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/nowhere", 404, ""},
		{"GET", "/server.go", 404, ""},
		{"GET", "/message", 405, "POST"},
		{"POST", "/", 405, "GET, HEAD"},
		{"PUT", "/events", 405, "GET, HEAD"},
		{"OPTIONS", "/message", 405, "POST"},
		{"GET", "/events?name=a%0Ab", 400, ""},
		{"GET", "/events?name=" + strings.Repeat("x", 51), 400, ""},
	} {
		resp := do(t, test.method, addr+test.path, "", "")
		if resp.StatusCode != test.status || resp.Header.Get("Allow") != test.allow {
			t.Errorf("%s %s: %d, Allow %q", test.method, test.path, resp.StatusCode, resp.Header.Get("Allow"))
		}
	}
	if resp := do(t, "GET", addr+"/events", formType, "message=a"); resp.StatusCode != 400 {
		t.Errorf("stream with a body: %d", resp.StatusCode)
	}
}

// TestOrigin has one other origin let in, and no more.
func TestOrigin(t *testing.T) {
	const app, evil = "https://app.example", "https://evil.example"
	addr := start(t, app)
	const json = `{"message":"hello"}`
	for _, test := range []struct {
		method, path, kind, body, origin string
		status                           int
	}{
		{"GET", "/events", "", "", app, 200},
		{"OPTIONS", "/message", "", "", app, 200},
		{"OPTIONS", "/events", "", "", app, 200},
		{"OPTIONS", "/nowhere", "", "", app, 404},
		{"GET", "/nowhere", "", "", app, 404},
		{"POST", "/message", jsonType, json, app, 200},
		{"POST", "/message", formType, "message=hello", app, 302},
		{"POST", "/message", jsonType, "{", app, 400},
		{"POST", "/message", jsonType, json, evil, 403},
		{"POST", "/message", jsonType, json, "null", 403},
	} {
		resp := do(t, test.method, addr+test.path, test.kind, test.body, "Origin: "+test.origin, "Sec-Fetch-Site: cross-site")
		if resp.StatusCode != test.status || resp.Header.Get("Access-Control-Allow-Origin") != app {
			t.Errorf("%s %s from %s: %d, allows %q", test.method, test.path, test.origin,
				resp.StatusCode, resp.Header.Get("Access-Control-Allow-Origin"))
		}
	}
	resp := do(t, "GET", start(t, "")+"/events", "", "", "Origin: "+app)
	if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("without the flag allows %q", got)
	}
	for _, origin := range []string{"app.example", "https://app.example/", "*", "null"} {
		if err := run(t.Context(), listen(t, "127.0.0.1:0"), origin); err == nil {
			t.Errorf("%q passes for an origin", origin)
		}
	}
}

// TestPage has the latest 200 messages in the HTML, as text, and the id to go on from.
func TestPage(t *testing.T) {
	addr := start(t, "")
	for i := range 201 {
		post(t, addr, "<i>Ada</i>", fmt.Sprintf("</li><script>alert(%d)</script>", i))
	}
	resp := do(t, "GET", addr+"/", "", "")
	body, _ := io.ReadAll(resp.Body)
	page := string(body)
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("Content-Security-Policy is %q", csp)
	}
	if strings.Contains(page, "<i>") || strings.Contains(page, "<script>alert") {
		t.Error("what somebody typed is markup")
	}
	if !strings.Contains(page, `<link rel="icon" href="data:`) {
		t.Error("without an icon of its own a browser asks for /favicon.ico")
	}
	at := -1
	for i := range 201 {
		next := strings.Index(page, fmt.Sprintf("alert(%d)", i))
		if i > 0 && next <= at || i == 0 && next >= 0 {
			t.Fatalf("message %d is at %d, the one before at %d", i, next, at)
		}
		at = next
	}
	reader := subscribe(t, addr, "", "")
	last := reader.messages(201)[200]
	if !strings.Contains(page, strconv.FormatInt(last.ID, 10)) {
		t.Error("the page does not say from where to subscribe")
	}
}

func TestResume(t *testing.T) {
	addr := start(t, "")
	empty := subscribe(t, addr, "", "").id // has a place, too
	for _, text := range []string{"zero", "one", "two"} {
		post(t, addr, "", text)
	}
	var ids []string
	for _, m := range subscribe(t, addr, "", "").messages(3) {
		ids = append(ids, strconv.FormatInt(m.ID, 10))
	}
	for _, test := range []struct {
		name, query, header, first string
	}{
		{"newcomer", "", "", "zero"},
		{"header", "", ids[0], "one"},
		{"query", "?after=" + ids[1], "", "two"},
		{"header wins", "?after=" + ids[1], ids[0], "one"},
		{"nothing new", "", ids[2], "live"},
		{"place in an empty room", "", empty, "zero"},
		{"garbage", "?after=no%00id", "", "zero"},
		{"garbage wins", "?after=" + ids[1], "garbage", "zero"},
		{"negative", "", "-1", "zero"},
		{"later than the newest", "", strconv.FormatInt(time.Now().Add(time.Hour).UnixMicro(), 10), "zero"},
		{"beyond all numbers", "", strings.Repeat("9", 500), "zero"},
	} {
		t.Run(test.name, func(t *testing.T) {
			reader := subscribe(t, addr, test.query, test.header)
			post(t, addr, "", "live")
			if got := reader.messages(1)[0].Text; got != test.first {
				t.Errorf("first is %q, want %q", got, test.first)
			}
		})
	}
}

// TestResumeUnderFire has readers that drop and resume all the time, while posts rain.
func TestResumeUnderFire(t *testing.T) {
	const readers, posters, each = 20, 4, 250
	addr := start(t, "")
	first := subscribe(t, addr, "", "").id
	all := subscribe(t, addr, "", "")
	var wg sync.WaitGroup
	for i := range posters {
		wg.Go(func() {
			for j := range each {
				post(t, addr, fmt.Sprint(i), fmt.Sprint(j))
			}
		})
	}
	got := make([][]said, readers)
	for i := range readers {
		wg.Go(func() {
			for id := first; len(got[i]) < posters*each; {
				reader := subscribe(t, addr, "", id)
				got[i] = append(got[i], reader.messages(min(1+(i+len(got[i]))%40, posters*each-len(got[i])))...)
				id = reader.id
				reader.close()
			}
		})
	}
	wg.Wait()
	want := all.messages(posters * each)
	next := make([]int, posters)
	for _, m := range want {
		i, _ := strconv.Atoi(m.Name)
		if m.Text != fmt.Sprint(next[i]) {
			t.Fatalf("poster %d: got %s, want %d", i, m.Text, next[i])
		}
		next[i]++
	}
	for i := range readers {
		equal(t, got[i], want)
	}
}

// TestMissed has a reader away for more than is kept; it is told so, and a newcomer is not.
func TestMissed(t *testing.T) {
	addr := start(t, "")
	long := subscribe(t, addr, "", "").id
	for i := range kept + 2 {
		post(t, addr, "", fmt.Sprint(i))
	}
	newcomer := subscribe(t, addr, "", "")
	got := newcomer.messages(kept)
	if got[0].Text != "2" || got[kept-1].Text != fmt.Sprint(kept+1) {
		t.Errorf("kept is from %s to %s", got[0].Text, got[kept-1].Text)
	}
	// Whoever has the last message that is not kept has missed nothing.
	equal(t, subscribe(t, addr, "", newcomer.first).messages(kept), got)
	cut := subscribe(t, addr, "", "1").first // whose stream broke after the first block
	for _, id := range []string{long, "1", cut} {
		reader := subscribe(t, addr, "", id)
		if event := reader.next(); event.kind != "missed" || event.data != "" {
			t.Errorf("with id %s comes %+v first", id, event)
		}
		equal(t, reader.messages(kept), got)
	}
}

// TestRestart has a reader come back to a server that has been started anew: its id
// stands for no other message, and it is told that some may be missing.
func TestRestart(t *testing.T) {
	addr := start(t, "")
	reader := subscribe(t, addr, "", "")
	post(t, addr, "", "before")
	reader.messages(1)
	addr = start(t, "")
	empty := subscribe(t, addr, "", reader.id)
	if event := empty.next(); event.kind != "missed" {
		t.Errorf("in an empty room comes %+v first", event)
	}
	back := subscribe(t, addr, "", empty.id) // which now is a place in this room: nothing is missed again
	post(t, addr, "", "after")
	if event := back.next(); event.kind != "" {
		t.Errorf("on coming back comes %+v first", event)
	}
	again := subscribe(t, addr, "", reader.id)
	if event := again.next(); event.kind != "missed" {
		t.Errorf("comes %+v first", event)
	}
	equal(t, again.messages(1), empty.messages(1))
}

// TestSpare has a newcomer read on from the oldest of a full log while more is said: it misses none.
func TestSpare(t *testing.T) {
	r := newRoom()
	for range kept + spare {
		r.publish("Ada", "hello")
	}
	newcomer := new(stream)
	r.next(newcomer)
	for range spare {
		r.publish("Ada", "hello")
	}
	if notes, _, _ := r.next(newcomer); strings.Contains(notes, "missed") {
		t.Errorf("it is told %q", notes)
	}
}

// TestClock has the clock set back by an hour: what is said comes after what was said.
func TestClock(t *testing.T) {
	r := newRoom()
	r.log[0].ID += time.Hour.Microseconds()
	for i := range int64(3) {
		m := r.publish("Ada", "hello")
		if want := r.log[0].ID + 1 + i; m.ID != want || m.Time.UnixMicro() != want {
			t.Errorf("message %d has id %d and time %v, want id %d", i, m.ID, m.Time, want)
		}
	}
}

func TestUsers(t *testing.T) {
	addr := start(t, "")
	watcher := subscribe(t, addr, "", "")
	data := func(names []string) string {
		data, _ := json.Marshal(map[string]any{"count": len(names), "names": append([]string{}, names...)})
		return string(data)
	}
	want := func(reader *reader, names ...string) {
		t.Helper()
		if got := reader.users(); got != data(names) {
			t.Errorf("here is %s, want %s", got, data(names))
		}
	}
	want(watcher)
	ada := subscribe(t, addr, "?name=Ada", "")
	want(ada, "Ada")
	want(watcher, "Ada")
	bob := subscribe(t, addr, "?name=+Bob+", "")
	want(bob, "Ada", "Bob")
	want(watcher, "Ada", "Bob")
	want(ada, "Ada", "Bob")

	// A page that is reloaded comes back within the second: what is told next is the arrivals,
	// all at once, or on a slow machine those of each second.
	begun := time.Now()
	bob.close()
	subscribe(t, addr, "?name=Bob", "")
	subscribe(t, addr, "?name=", "")
	all := []string{"Ada", "Bob"}
	for i := range 50 {
		all = append(all, fmt.Sprintf("Cy %02d", i))
		subscribe(t, addr, "?name="+url.QueryEscape(all[2+i]), "")
		subscribe(t, addr, "?name="+url.QueryEscape(all[2+i]), "")
	}
	seconds := int(time.Since(begun) / gather)
	post(t, addr, "", "hello") // which makes nobody think that the news has been told
	for late, reader := range []*reader{watcher, ada} {
		reader.messages(1)
		for told := 1; reader.users() != data(all); told++ {
			if told > seconds+late { // Ada's stream may be: told of some with the news before, and then once more
				t.Fatalf("not all are told of within %d s", seconds+1)
			}
		}
	}
	ada.close()
	want(watcher, all[1:]...)
}

// TestStalledReaders has readers that take nothing delay neither the others nor those who post.
func TestStalledReaders(t *testing.T) {
	const posts = 1500 // of 8 KB: more than any socket's buffers take
	addr := start(t, "")
	healthy := subscribe(t, addr, "", "")
	for range 20 {
		subscribe(t, addr, "", "") // and read no more of it
	}
	text := strings.Repeat("🙂", maxMessage)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i, m := range healthy.messages(posts) {
			if want := text[:len(text)-4*(i%2)]; m.Text != want {
				t.Errorf("message %d has %d bytes, want %d", i, len(m.Text), len(want))
			}
		}
	})
	for i := range posts {
		begun := time.Now()
		post(t, addr, "", text[:len(text)-4*(i%2)])
		if took := time.Since(begun); took > takeTimeout/2 { // a slow machine alone takes 2 s
			t.Errorf("post %d took %v", i, took)
		}
	}
	wg.Wait()
}

// TestTime has what happens at certain times, with a clock that jumps to them.
func TestTime(t *testing.T) {
	var hangUp func() error // ends the connection dialled last
	serve := func(t *testing.T, test func(dial func(request string) *bufio.Reader)) {
		synctest.Test(t, func(t *testing.T) {
			listener := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- run(ctx, listener, "") }()
			var clients []net.Conn
			test(func(request string) *bufio.Reader {
				client, server := net.Pipe()
				hangUp = client.Close
				clients = append(clients, client)
				listener.conns <- server
				io.WriteString(client, request)
				return bufio.NewReaderSize(client, 16)
			})
			cancel()
			for _, client := range clients {
				client.Close()
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	const get = "GET /events?name=%s HTTP/1.0\r\n\r\n"
	const hello = "POST /message HTTP/1.0\r\nContent-Type: " + formType + "\r\nContent-Length: 13\r\n\r\nmessage=hello"
	until := func(t *testing.T, r *bufio.Reader, prefix string) (line string) {
		t.Helper()
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("%v, waiting for %q", err, prefix)
			}
			if strings.HasPrefix(line, prefix) {
				return line
			}
		}
	}
	t.Run("heartbeat", func(t *testing.T) {
		serve(t, func(dial func(string) *bufio.Reader) {
			stream := dial(fmt.Sprintf(get, ""))
			until(t, stream, "event: users")
			begun := time.Now()
			for i := 1; i <= 20_000; i++ { // for three days
				until(t, stream, ":")
				if got, want := time.Since(begun), time.Duration(i)*heartbeat; got != want {
					t.Fatalf("heartbeat %d comes after %v, want %v", i, got, want)
				}
			}
		})
	})
	t.Run("gathered", func(t *testing.T) {
		serve(t, func(dial func(string) *bufio.Reader) {
			watcher := dial(fmt.Sprintf(get, ""))
			until(t, watcher, `data: {"count":0,`)
			arrive := func(name, want string) { until(t, dial(fmt.Sprintf(get, name)), want) }
			for i, later := range []string{`data: {"count":2,`, `data: {"count":4,`} { // the second time as the first
				begun := time.Now()
				arrive(fmt.Sprint("Ada", i), `data: {"count":`)
				time.Sleep(gather / 2)
				arrive(fmt.Sprint("Bob", i), later)
				until(t, watcher, later)
				if took := time.Since(begun); took != gather {
					t.Errorf("told after %v, want %v", took, gather)
				}
			}
		})
	})
	t.Run("reload", func(t *testing.T) { // while another's arrival is told
		serve(t, func(dial func(string) *bufio.Reader) {
			watcher := dial(fmt.Sprintf(get, ""))
			until(t, watcher, `data: {"count":0,`)
			until(t, dial(fmt.Sprintf(get, "Ada")), `data: {"count":1,`)
			leave := hangUp
			until(t, watcher, `data: {"count":1,`)
			until(t, dial(fmt.Sprintf(get, "Bob")), `data: {"count":2,`)
			time.Sleep(gather * 3 / 4)
			leave()
			time.Sleep(gather * 3 / 8)
			until(t, dial(fmt.Sprintf(get, "Ada")), `data: {"count":2,`)
			time.Sleep(gather)
			until(t, dial(fmt.Sprintf(get, "Cy")), `data: {"count":3,`)
			for _, count := range []string{`"count":2,`, `"count":3,`} {
				if line := until(t, watcher, "data:"); !strings.Contains(line, count) {
					t.Errorf("told %q, want %s", line, count)
				}
			}
		})
	})
	t.Run("rest", func(t *testing.T) { // for each stream that is open, and for none that has left
		serve(t, func(dial func(string) *bufio.Reader) {
			watcher := dial(fmt.Sprintf(get, ""))
			until(t, watcher, `data: {"count":0,`)
			for range 10 {
				until(t, dial(fmt.Sprintf(get, "")), `data: {"count":0,`)
				hangUp()
			}
			time.Sleep(gather)
			for i := range time.Duration(3) {
				begun := time.Now()
				until(t, dial(hello), "HTTP/1.0 302")
				until(t, watcher, `data: {"name":"guest",`)
				until(t, watcher, "\n")
				synctest.Wait() // before it waits, a stream takes what is new without being woken
				if took := time.Since(begun); took != min(i, 1)*restPerStream {
					t.Errorf("message %d comes after %v", i, took)
				}
			}
		})
	})
	t.Run("stalled", func(t *testing.T) {
		serve(t, func(dial func(string) *bufio.Reader) {
			watcher := dial(fmt.Sprintf(get, ""))
			until(t, watcher, `data: {"count":0,`)
			stalled := dial(fmt.Sprintf(get, "Ada"))
			until(t, stalled, `data: {"count":1,`)
			until(t, watcher, `data: {"count":1,`)
			until(t, dial(hello), "HTTP/1.0 302")
			begun := time.Now()
			until(t, watcher, `data: {"count":0,`)
			if took := time.Since(begun) - gather; took < takeTimeout-time.Second || took > takeTimeout+time.Second {
				t.Errorf("cut off after %v", took)
			}
		})
	})
	for name, request := range map[string]string{
		"half a header":              "GET /events HTTP/1.1\r\nHost:",
		"half a body":                "POST /message HTTP/1.1\r\nHost: x\r\nContent-Type: " + formType + "\r\nContent-Length: 10\r\n\r\nmess",
		"half a form without a type": "POST /message HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nmess",
		"half a stream's body":       "GET /events HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nmess",
	} {
		t.Run(name, func(t *testing.T) {
			serve(t, func(dial func(string) *bufio.Reader) {
				begun := time.Now()
				answer, _ := io.ReadAll(dial(request))
				if took := time.Since(begun); took > 30*time.Second || bytes.Contains(answer, []byte("200 OK")) {
					t.Errorf("dropped after %v with %q", took, answer)
				}
			})
		})
	}
}

// TestStop has all streams end, a post in flight finish, and half a request end, too.
func TestStop(t *testing.T) {
	addr, stop := startOn(t, listen(t, "127.0.0.1:0"), "")
	var readers []*reader
	for range 100 {
		readers = append(readers, subscribe(t, addr, "?name=Ada", ""))
	}
	half := dial(t, addr)
	io.WriteString(half, "GET / HTTP/1.1\r\nHost:")
	late := dial(t, addr)
	fmt.Fprintf(late, "POST /message HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: %s\r\nContent-Length: 9\r\n\r\n", formType)
	answer := bufio.NewReader(late)
	if line, _ := answer.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("a post that waits to be asked for its body is answered %q", line)
	}
	begun := time.Now()
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	for _, reader := range readers {
		if err := reader.end(); err != io.EOF {
			t.Errorf("a stream ends with %v", err)
		}
	}
	io.WriteString(late, "message=a")
	answer.ReadString('\n')
	if line, _ := answer.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 302") {
		t.Errorf("the post in flight is answered %q", line)
	}
	<-stopped
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

// TestProcess has the program itself, with its flags, signals and exit codes.
func TestProcess(t *testing.T) {
	launch := func(t *testing.T, args ...string) (*exec.Cmd, *bufio.Reader) {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), "SSECHAT_MAIN=1")
		stderr, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		return cmd, bufio.NewReader(stderr)
	}
	address := func(t *testing.T, stderr *bufio.Reader) string {
		line, _ := stderr.ReadString('\n')
		_, addr, found := strings.Cut(strings.TrimSpace(line), " at ")
		if !found {
			t.Fatalf("it says %q", line)
		}
		return addr
	}
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd, stderr := launch(t, "-addr", "localhost:0")
			reader := subscribe(t, address(t, stderr), "", "")
			cmd.Process.Signal(sig)
			if err := reader.end(); err != io.EOF {
				t.Errorf("the stream ends with %v", err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ends with %v", err)
			}
		})
	}
	t.Run("second interrupt", func(t *testing.T) {
		caught := make(chan os.Signal, 1) // caught here, it is not ignored there: what a script starts with & ignores it
		signal.Notify(caught, os.Interrupt)
		defer signal.Stop(caught)
		cmd, stderr := launch(t, "-addr", "localhost:0")
		addr := address(t, stderr)
		io.WriteString(dial(t, addr), "GET") // what the first one would wait for
		reader := subscribe(t, addr, "", "")
		begun := time.Now()
		cmd.Process.Signal(os.Interrupt)
		reader.end()
		go func() { // one that comes within microseconds of the first may still be taken for it
			for cmd.Process.Signal(os.Interrupt) == nil {
			}
		}()
		err := cmd.Wait()
		if took := time.Since(begun); err == nil || took > stopTimeout/2 {
			t.Errorf("it ends with %v after %v", err, took)
		}
	})
	taken := listen(t, "127.0.0.1:0")
	for name, args := range map[string][]string{
		"taken port": {"-addr", taken.Addr().String()},
		"no address": {"-addr", "nowhere"},
		"no origin":  {"-addr", "localhost:0", "-origin", "app.example"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, stderr := launch(t, args...)
			said, _ := io.ReadAll(stderr)
			cmd.Wait()
			if lines := bytes.Count(said, []byte("\n")); lines != 1 || cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("it exits %d and says %q", cmd.ProcessState.ExitCode(), said)
			}
		})
	}
}

// TestReadme runs the commands of the README and compares what comes out, and has the names,
// values, files, flags and answers that it gives be those of the program.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	source, err := os.ReadFile("server.go")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("commands", func(t *testing.T) {
		if _, err := exec.LookPath("curl"); err != nil && os.Getenv("CI") == "" {
			t.Skip("there is no curl:", err)
		}
		addr := start(t, "")
		_, session, _ := strings.Cut(readme, "```console\n")
		session, _, _ = strings.Cut(session, "```")
		steps := strings.Split("\n"+session, "\n$ ")[1:]
		if len(steps) < 4 {
			t.Fatalf("there are %d commands", len(steps))
		}
		varying := regexp.MustCompile(`(?m)^(Date: ).*|(retry: )\d{4}$|(id: )\d{16}$|("time":")[^"]*Z`)
		plain := func(s string) string {
			return strings.TrimSpace(varying.ReplaceAllString(strings.ReplaceAll(s, "\r", ""), "$1$2$3$4…"))
		}
		for _, step := range steps {
			command, want, _ := strings.Cut(step, "\n")
			cmd := exec.Command("sh", "-c", strings.ReplaceAll(command, "localhost:3000", strings.TrimPrefix(addr, "http://")))
			got, _ := cmd.Output() // curl fails when its time is up, as it is meant to
			if plain(string(got)) != plain(want) {
				t.Errorf("$ %s\n%s\nThe README has:\n%s", command, got, want)
			}
		}
	})
	t.Run("names", func(t *testing.T) {
		others := "message name missed reader WriteTimeout Flush EventSource"
		for _, found := range regexp.MustCompile("`([a-zA-Z]+)`").FindAllStringSubmatch(readme, -1) {
			declared := regexp.MustCompile(`(?m)^(func (\(r \*room\) )?|type |\t)` + found[1] + `(\(| struct| += )`)
			if !declared.Match(source) && !slices.Contains(strings.Fields(others), found[1]) {
				t.Errorf("%s is not in server.go", found[0])
			}
		}
		for _, found := range regexp.MustCompile("`([a-zA-Z_]+\\.(go|html|md|mod))`").FindAllStringSubmatch(readme, -1) {
			if _, err := os.Stat(found[1]); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("values", func(t *testing.T) {
		for name, value := range map[string]string{
			"kept":        fmt.Sprintf("%d,%03d messages", kept/1000, kept%1000),
			"maxMessage":  fmt.Sprintf("%d,%03d characters", maxMessage/1000, maxMessage%1000),
			"maxName":     fmt.Sprintf("%d characters", maxName),
			"gather":      fmt.Sprintf("%.0f s", gather.Seconds()),
			"takeTimeout": fmt.Sprintf("%.0f s", takeTimeout.Seconds()),
			"sendTimeout": fmt.Sprintf("%.0f s", sendTimeout.Seconds()),
			"stopTimeout": fmt.Sprintf("%.0f s", stopTimeout.Seconds()),
		} {
			if words := fmt.Sprintf("`%s` (%s)", name, value); !strings.Contains(strings.ReplaceAll(readme, "\n", " "), words) {
				t.Errorf("the README does not have %s", words)
			}
		}
		for _, words := range []string{
			fmt.Sprintf("the latest %d messages", shown),
			fmt.Sprintf("(%d names at most)", listed),
			fmt.Sprintf("a comment, about every %.0f seconds", heartbeat.Seconds()),
		} {
			if !strings.Contains(readme, words) {
				t.Errorf("the README does not have %q", words)
			}
		}
	})
	t.Run("answers", func(t *testing.T) {
		addr := start(t, "")
		rows := regexp.MustCompile("\\| `(GET|POST) (/[a-z]*)` \\| (?:a form.*?: )?(\\d+)").FindAllStringSubmatch(readme, -1)
		if len(rows) != 3 {
			t.Fatalf("the README has %d requests", len(rows))
		}
		for _, row := range rows {
			resp := do(t, row[1], addr+row[2], formType, map[string]string{"POST": "message=hello"}[row[1]])
			if strconv.Itoa(resp.StatusCode) != row[3] {
				t.Errorf("%s %s answers %s, not %s", row[1], row[2], resp.Status, row[3])
			}
		}
	})
	t.Run("flags", func(t *testing.T) {
		cmd := exec.Command(os.Args[0], "-h")
		cmd.Env = append(os.Environ(), "SSECHAT_MAIN=1")
		usage, _ := cmd.CombinedOutput()
		for _, found := range regexp.MustCompile("`(-[a-z]+)[ `]").FindAllStringSubmatch(readme, -1) {
			if found[1] != "-m" && !strings.Contains(string(usage), "\n  "+found[1]+" ") {
				t.Errorf("%s is no flag:\n%s", found[1], usage)
			}
		}
		if !strings.Contains(string(usage), `(default "localhost:3000")`) {
			t.Errorf("the README is wrong about the default:\n%s", usage)
		}
	})
}

// FuzzPost has whatever is posted come out as exactly one event, with the text as posted.
func FuzzPost(f *testing.F) {
	for _, text := range []string{"hello", "a\r\nb\rc\n", "\ndata: forged\n\nid: 7\n\n", ":\n", "\u2028\u0085\v\f", "\xff\xfe", "\x00", "\uFEFF", "\\u000a</script>", "%0A+"} {
		f.Add(text, text)
	}
	addr := start(f, "")
	reader := subscribe(f, addr, "", "")
	normal := func(s string) string {
		s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\r\n", "\n")
		return strings.TrimSpace(strings.ReplaceAll(s, "\r", "\n"))
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		reader.t = t
		resp := do(t, "POST", addr+"/message", formType, url.Values{"name": {name}, "message": {text}}.Encode())
		name, text = normal(name), normal(text)
		refused := text == "" || utf8.RuneCountInString(text) > 2000 || utf8.RuneCountInString(name) > 50 ||
			strings.ContainsFunc(name, func(c rune) bool { return strings.ContainsRune("\n\v\f\u0085\u2028\u2029", c) })
		if refused != (resp.StatusCode >= 400) {
			t.Fatalf("name %q and text %q: %s", name, text, resp.Status)
		}
		post(t, addr, "end", "end")
		if !refused {
			if name == "" {
				name = "guest"
			}
			if m := reader.messages(1)[0]; m.Name != name || m.Text != text {
				t.Errorf("posted %q, %q; received %q, %q", name, text, m.Name, m.Text)
			}
		}
		if m := reader.messages(1)[0]; m.Name != "end" || m.Text != "end" {
			t.Errorf("forged: %q, %q", m.Name, m.Text)
		}
	})
}

// The page in a real browser. What each test expects of the document is in index.html:
// a message is a li[data-id] in #log, the state of the connection is in #state, and so on.

func TestBrowserTwoWindows(t *testing.T) {
	b := newBrowser(t, start(t, ""))
	one, two := b.open(), b.open()
	ada, bob := one.eval("$('#name').value"), two.eval("$('#name').value")
	for tries := 0; bob == ada && tries < 2; tries++ { // once in a while two are made up alike
		two = b.open()
		bob = two.eval("$('#name').value")
	}
	if ada == "" || bob == "" || ada == bob {
		t.Fatalf("two windows are named %q and %q at first, want two names", ada, bob)
	}
	one.keys("#message", "Hello"+enter)
	two.shows(ada + ": Hello")
	one.wait("$('#message').value", "")
	two.keys("#message", "Hi there"+enter)
	one.shows(ada+": Hello", bob+": Hi there")
	two.shows(ada+": Hello", bob+": Hi there")
}

func TestBrowserName(t *testing.T) {
	w := newBrowser(t, start(t, "")).open()
	w.rename("Ada")
	w.wait("names()", "Ada") // not the made-up one
	w.keys("#message", "Hello"+enter)
	w.shows("Ada: Hello")
	w.reload()
	w.wait("$('#name').value", "Ada")
	w.wait("names()", "Ada")
}

func TestBrowserMarkup(t *testing.T) {
	const markup = `<em>no</em><img src="/x" onerror="ran = true"><script>ran = true</script>&amp;`
	w := newBrowser(t, start(t, "")).open()
	w.rename("<i>Eve</i>")
	w.keys("#message", markup+enter)
	for _, when := range []string{"live", "in the page"} {
		w.shows("<i>Eve</i>: " + markup)
		w.wait("names()", "<i>Eve</i>")
		if made := w.eval("all('#log :is(em, i, img, script), #here i').length"); made != "0" {
			t.Errorf("%s: %s elements were made of the markup", when, made)
		}
		if ran := w.eval("typeof ran"); ran != "undefined" {
			t.Errorf("%s: the markup ran", when)
		}
		w.reload()
	}
}

func TestBrowserHistory(t *testing.T) {
	b := newBrowser(t, start(t, ""))
	one := b.open()
	b.say("Ada", "first")
	b.say("Bob", "second")
	one.shows("Ada: first", "Bob: second")
	one.reload()
	other := b.open()
	one.wait("state()", "live")
	b.say("Ada", "third") // whatever had been shown twice would have come before it
	one.shows("Ada: first", "Bob: second", "Ada: third")
	other.shows("Ada: first", "Bob: second", "Ada: third")
}

func TestBrowserBack(t *testing.T) {
	w := newBrowser(t, start(t, "")).open()
	w.say("Ada", "before")
	w.shows("Ada: before")
	w.visit("about:blank")
	w.say("Ada", "meanwhile")
	w.back()
	w.wait("state()", "live")
	w.say("Ada", "after")
	w.shows("Ada: before", "Ada: meanwhile", "Ada: after")
}

func TestBrowserRestart(t *testing.T) {
	addr, stop := startOn(t, listen(t, "127.0.0.1:0"), "")
	b := newBrowser(t, addr)
	b.expected = regexp.MustCompile(`net::ERR_`) // of a server that is not there
	w := b.open()
	w.rename("Ada")
	w.wait("state()", "live")
	live := w.eval("$('#state').innerText")
	w.say("Bob", "Good night")
	w.shows("Bob: Good night")
	stop()
	w.wait("state()", "connecting")
	if words := w.eval("$('#state').innerText"); words == "" || words == live {
		t.Errorf("without a server the state in words is %q", words)
	}
	w.keys("#message", "Anybody?"+enter)
	w.wait("$('#why').innerText != ''", "true")
	w.wait("$('#message').value", "Anybody?")

	_, stop = startOn(t, listen(t, strings.TrimPrefix(addr, "http://")), "")
	t.Cleanup(stop)
	w.say("Bob", "Good morning")
	w.shows("Bob: Good night", "Bob: Good morning")
	w.wait("state()", "live")
	w.keys("#message", enter)
	w.shows("Bob: Good night", "Bob: Good morning", "Ada: Anybody?")
	w.wait("$('#why').innerText", "")
	w.wait("all('#log .quiet').filter(line => line.textContent.includes('missing')).length", "1")
	w.wait(`all('#wire-log li').filter(li => /^id: \d+\nevent: missed\ndata: $/.test(li.textContent)).length`, "1")
	w.wait(`all('#wire-log li').every(li => /^(id: \d+\n(event: missed\n)?|event: users\n)data: /.test(li.textContent))`, "true")
}

// An EventSource gives up for good on any answer but 200.
func TestBrowserBadGateway(t *testing.T) {
	target, _ := url.Parse(start(t, ""))
	chat := httputil.NewSingleHostReverseProxy(target)
	var requests atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/events" && requests.Add(1) <= 2 {
			http.Error(w, "no upstream", http.StatusBadGateway)
			return
		}
		chat.ServeHTTP(w, req)
	}))
	t.Cleanup(proxy.Close)
	b := newBrowser(t, proxy.URL)
	b.expected = regexp.MustCompile(`status of 502`)
	b.say("Ada", "before")
	w := b.window()
	w.visit(b.url)
	w.say("Ada", "meanwhile")
	w.shows("Ada: before", "Ada: meanwhile")
	w.wait("state()", "live")
	w.say("Ada", "after")
	w.shows("Ada: before", "Ada: meanwhile", "Ada: after")
}

func TestBrowserDisconnect(t *testing.T) {
	b := newBrowser(t, start(t, ""))
	one, two := b.open(), b.open()
	one.rename("Ada")
	two.rename("Bob")
	two.wait("names()", "Ada, Bob")
	b.say("Eve", "1")
	one.shows("Eve: 1")

	one.wait("$('#connect').innerText", "Disconnect")
	one.click("#connect")
	one.wait("state()", "disconnected")
	one.wait("$('#connect').innerText", "Connect")
	two.wait("names()", "Bob") // Ada's stream has ended: nothing more can come
	two.keys("#message", "2"+enter)
	two.shows("Eve: 1", "Bob: 2")
	two.keys("#message", "3"+enter)
	two.shows("Eve: 1", "Bob: 2", "Bob: 3")
	one.shows("Eve: 1")

	one.click("#connect")
	one.wait("state()", "live")
	two.keys("#message", "4"+enter)
	one.shows("Eve: 1", "Bob: 2", "Bob: 3", "Bob: 4")
	for _, text := range []string{"1", "2", "3", "4"} { // the page asked from where it was
		one.wait(fmt.Sprintf(`all("#wire-log li").filter(li => li.textContent.includes('"message":"%s"')).length`, text), "1")
	}

	one.click("#connect")
	one.wait("getComputedStyle($('#who')).opacity < 1", "true") // it may be out of date
	watcher := subscribe(t, b.url, "", "")
	watcher.messages(4)
	two.command("Page.close", dict{})
	for watcher.users() != `{"count":0,"names":[]}` {
	}
	one.click("#connect")
	one.wait("all('#log .quiet').at(-1).textContent", "Bob left")
	one.wait("getComputedStyle($('#who')).opacity", "1")
}

func TestBrowserWithoutScript(t *testing.T) {
	b := newBrowser(t, start(t, ""))
	w := b.window()
	w.command("Emulation.setScriptExecutionDisabled", dict{"value": true})
	w.visit(b.url)
	w.wait("/reload/i.test(document.body.innerText)", "true")
	w.keys("#name", "Ada")
	w.keys("#message", "Hello"+enter+"again")
	w.click("#send")
	w.shows("Ada: Hello\nagain")
	w.wait("location", b.url+"/")
}

func TestBrowserPresence(t *testing.T) {
	const linesOnBob = "all('#log .quiet').filter(li => li.textContent.includes('Bob')).length"
	b := newBrowser(t, start(t, ""))
	one := b.open()
	one.rename("Ada")
	one.wait("names()", "Ada")
	two := b.open()
	two.rename("Bob")
	for _, w := range []*window{one, two} {
		w.wait("names()", "Ada, Bob")
		w.wait("number('#count')", "2")
	}
	one.wait(linesOnBob, "1")

	two.reload()
	two.wait("names()", "Ada, Bob")
	response, err := http.Get(b.url + "/events?name=Cy") // who comes later than Bob would have left
	if err != nil {
		t.Fatal(err)
	}
	one.wait("names()", "Ada, Bob, Cy")
	one.wait(linesOnBob, "1")
	response.Body.Close()

	two.command("Page.close", dict{})
	one.wait("names()", "Ada")
	one.wait("number('#count')", "1")
	one.wait(linesOnBob, "2")
}

func TestBrowserRefusal(t *testing.T) {
	b := newBrowser(t, start(t, ""))
	b.expected = regexp.MustCompile(`status of 413`)
	w := b.open()
	long := strings.Repeat("x", maxMessage+1)
	refusal, _ := io.ReadAll(do(t, "POST", b.url+"/message", formType, "message="+long).Body)
	w.eval(fmt.Sprintf("$('#message').value = %q", long))
	w.keys("#message", enter)
	w.wait("$('#why').innerText", strings.TrimSpace(string(refusal)))
	w.wait("$('#message').value", long)
	w.shows()
}

func TestBrowserKeyboard(t *testing.T) {
	w := newBrowser(t, start(t, "")).open()
	w.rename("Ada")
	w.keys("#message", "one"+shift+enter+release+"two"+enter)
	w.shows("Ada: one\ntwo")
	w.wait("document.activeElement.id", "message")
	w.keys("#message", "three"+enter+"four"+enter) // while the first is under way
	w.shows("Ada: one\ntwo", "Ada: three", "Ada: four")
	w.keys("#message", "five")
	w.click("#send")
	w.shows("Ada: one\ntwo", "Ada: three", "Ada: four", "Ada: five")
	w.wait("document.activeElement.id", "message")
}

// A post that gets no answer may have been taken: only the reader can tell whether to send it again.
func TestBrowserNoAnswer(t *testing.T) {
	target, _ := url.Parse(start(t, ""))
	chat := httputil.NewSingleHostReverseProxy(target)
	arrived, pressed := make(chan bool, 9), make(chan bool)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost && req.Header.Get("Sec-Fetch-Site") != "" {
			chat.ServeHTTP(httptest.NewRecorder(), req)
			arrived <- true
			<-pressed
			panic(http.ErrAbortHandler)
		}
		chat.ServeHTTP(w, req)
	}))
	t.Cleanup(proxy.Close)
	b := newBrowser(t, proxy.URL)
	b.expected = regexp.MustCompile(`net::ERR_`)
	w := b.open()
	w.rename("Ada")
	w.keys("#message", "Hello"+enter)
	<-arrived
	w.keys("#message", enter)
	close(pressed)
	w.wait("$('#why').innerText != ''", "true")
	w.wait("$('#message').value", "Hello")
	b.say("Bob", "Once")
	w.shows("Ada: Hello", "Bob: Once")
}

// Those who come and go do not push the messages out.
func TestBrowserQuiet(t *testing.T) {
	w := newBrowser(t, start(t, "")).open()
	w.say("Ada", "Hello")
	w.shows("Ada: Hello")
	w.eval("Array.from({ length: 600 }, (_, i) => addQuiet(`${i} came`)).length")
	w.wait("all('#log .quiet').at(-1)?.textContent", "599 came")
	w.wait("all('#log .quiet').length", "100")
	w.shows("Ada: Hello")
}

func TestBrowserBurst(t *testing.T) {
	const burst = 3_000
	w := newBrowser(t, start(t, "")).open()
	w.click("#connect") // so that all of them come at once
	w.wait("state()", "disconnected")
	for i := range burst {
		w.say("Ada", fmt.Sprint("message ", i+1))
	}
	w.eval(`longest = 0, last = performance.now(), setInterval(() => {
		longest = Math.max(longest, performance.now() - last), last = performance.now()
	}, 10)`)
	w.click("#connect")
	w.wait("all('#log li[data-id] .text').at(-1)?.textContent", fmt.Sprint("message ", burst))
	w.wait("all('#log li[data-id]').length <= 500", "true")
	w.wait("all('#log li[data-id] .text').every((text, i, { length }) => text.textContent == `message ${3000 - length + i + 1}`)", "true")
	w.wait("number('#wire-count') >= 3000", "true")
	w.wait("all('#wire-log > li').length", "20")
	if w.eval("longest > 2000") == "true" {
		t.Errorf("the page did nothing else for %s ms", w.eval("longest"))
	}
}

func TestBrowserUnread(t *testing.T) {
	w := newBrowser(t, start(t, "")).open()
	title := w.eval("document.title")
	w.do("/window/minimize", dict{}, nil)
	w.wait("document.hidden", "true")
	w.say("Ada", "one")
	w.say("Ada", "two")
	w.wait("document.title", "(2) "+title)
	w.do("/window/rect", dict{"width": 800, "height": 600}, nil)
	w.wait("document.hidden", "false")
	w.wait("document.title", title)
}

func TestBrowserNarrow(t *testing.T) {
	w := newBrowser(t, start(t, "")).open()
	w.command("Emulation.setDeviceMetricsOverride", dict{"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": false})
	w.wait("innerWidth", "320")
	w.rename(strings.Repeat("W", maxName))
	w.wait("names() == $('#name').value", "true")
	w.click("#wire summary")
	for _, text := range []string{"Hello", strings.Repeat("W", maxMessage)} {
		w.say(strings.Repeat("W", maxName), text)
		w.wait("all('#log li[data-id] .text').at(-1)?.textContent", text)
		w.wait("['html', '#log', '#wire-log'].filter(box => $(box).scrollWidth > $(box).clientWidth)", "")
	}
}

// The benchmarks. Beside the chat each measures the floor, in the same run and read by the
// same readers: one write(2) for each reader and message, and nothing else. Readers and
// posters are processes of their own, so the CPU time of this one is the server's.

// BenchmarkBurst posts as fast as it is answered.
func BenchmarkBurst(b *testing.B) { beside(b, load{Readers: 1000, Messages: 500}) }

// BenchmarkPaced posts at a steady pace, to ever more readers.
func BenchmarkPaced(b *testing.B) {
	for _, l := range []load{
		{Readers: 10, Messages: 100, Pace: 20 * time.Millisecond},
		{Readers: 100, Messages: 100, Pace: 20 * time.Millisecond},
		{Readers: 1000, Messages: 100, Pace: 20 * time.Millisecond},
		{Readers: 10_000, Messages: 10, Pace: 250 * time.Millisecond},
	} {
		b.Run(fmt.Sprint(l.Readers), func(b *testing.B) { beside(b, l) })
	}
}

// BenchmarkStalled has the healthy wait, or not, because others take nothing of 8 MB.
func BenchmarkStalled(b *testing.B) {
	for _, stalled := range []int{0, 50} {
		b.Run(fmt.Sprint(stalled), func(b *testing.B) {
			l := load{Readers: 200, Stalled: stalled, Messages: 1000, Size: 8000, Pace: 10 * time.Millisecond}
			for b.Loop() {
				got, _ := l.chat(b)
				b.ReportMetric(got.P99, "p99-ms")
				b.ReportMetric(float64(got.Posted)/got.Seconds, "posts/s")
			}
		})
	}
}

// BenchmarkReturn has 10,000 readers come back to a server that was started anew, all at once.
func BenchmarkReturn(b *testing.B) {
	for b.Loop() {
		addr, stop := startOn(b, listen(b, "127.0.0.1:0"), "")
		for i := range 100 {
			post(b, addr, "", fmt.Sprint(i))
		}
		_, back, finish := load{Addr: addr, Readers: 10_000, After: "1", Kept: 100}.start(b)
		finish()
		stop()
		b.ReportMetric(back.Seconds(), "s/all")
	}
}

// BenchmarkArrivals has 5,000 named readers of whom one leaves for each who arrives.
func BenchmarkArrivals(b *testing.B) {
	addr := start(b, "")
	here := make(chan net.Conn, 5000)
	arrive := func(i int) {
		conn := dial(b, addr)
		fmt.Fprintf(conn, "GET /events?name=%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
		conn.Read(make([]byte, 1))
		here <- conn
	}
	for i := range cap(here) {
		arrive(i)
	}
	watcher := subscribe(b, addr, "?name=watcher", "")
	watcher.users() // the one on connecting
	arrived := cap(here)
	for b.Loop() {
		posts, told := 0, len(watcher.here)
		begun := time.Now()
		for ; time.Since(begun) < 5*time.Second; arrived++ {
			(<-here).Close()
			arrive(arrived)
			if arrived%100 == 0 {
				post(b, addr, "", "still flowing")
				posts++
			}
		}
		watcher.messages(posts)
		b.ReportMetric(float64(len(watcher.here)-told)/time.Since(begun).Seconds(), "users-events/s")
		b.ReportMetric(float64(posts)*100/time.Since(begun).Seconds(), "arrivals/s")
	}
}

// BenchmarkPublish has nobody read, and much or little kept.
func BenchmarkPublish(b *testing.B) {
	for _, history := range []int{0, 10 * kept} {
		b.Run(fmt.Sprint(history), func(b *testing.B) {
			r := newRoom()
			for range history {
				r.publish("Ada", "hello")
			}
			b.ReportAllocs()
			for b.Loop() {
				r.publish("Ada", "hello")
			}
		})
	}
}

// beside runs a load on the floor and on the chat.
func beside(b *testing.B, l load) {
	for b.Loop() {
		floor, floorUsed := l.floor(b)
		got, used := l.chat(b)
		each := func(r result, cpu time.Duration) float64 { return float64(cpu.Nanoseconds()) / float64(r.Delivered) }
		b.ReportMetric(float64(got.Delivered)/got.Seconds, "deliveries/s")
		b.ReportMetric(floor.Seconds/got.Seconds, "x-floor-speed")
		b.ReportMetric(each(got, used), "CPU-ns/delivery")
		b.ReportMetric(each(got, used)/each(floor, floorUsed), "x-floor-CPU")
		b.ReportMetric(float64(got.Memory)/float64(l.Readers), "B/reader")
		if l.Pace > 0 {
			b.ReportMetric(got.P99/floor.P99, "x-floor-p99")
			b.ReportMetric(got.Last/floor.Last, "x-floor-last")
		}
	}
}

// A load is what a process of readers does, and one that posts.
type load struct {
	Addr             string
	Readers, Stalled int
	Messages, Size   int           // Size in bytes; about 100 with 0
	Pace             time.Duration // 0: as fast as they are answered
	After            string        // an id
	Kept             int           // messages that come before the load begins
	Posting          bool
}

// A result is what came of it.
type result struct {
	Delivered, Posted int
	Seconds           float64
	P99, Last         float64 // ms from when a message was due
	Memory            int64   // bytes
}

// chat runs the load on the chat. It fails unless all readers get all messages, in one order.
func (l load) chat(b *testing.B) (result, time.Duration) {
	before := memory()
	addr, stop := startOn(b, listen(b, "127.0.0.1:0"), "")
	defer stop()
	l.Addr = addr
	readers, _, finish := l.start(b)
	held := memory() - before
	poster := l
	poster.Readers, poster.Stalled, poster.Posting = 0, 0, true
	posters, _, finishPosting := poster.start(b)
	begin := strconv.FormatInt(time.Now().Add(50*time.Millisecond).UnixNano(), 10)
	used := cpu()
	fmt.Fprintln(readers, begin)
	fmt.Fprintln(posters, begin)
	finishPosting()
	got := finish()
	used = cpu() - used
	got.Posted, got.Memory = l.Messages, held
	return got, used
}

// floor runs the load on a loop over connections.
func (l load) floor(b *testing.B) (result, time.Duration) {
	listener := listen(b, "127.0.0.1:0")
	defer listener.Close()
	l.Addr = "http://" + listener.Addr().String()
	const first = "retry: 1000\nid: 1\n\nevent: users\ndata: {\"count\":0,\"names\":[]}\n\n"
	files := make([]*os.File, l.Readers)
	fds := make([]int, l.Readers)
	go func() {
		for i := range files {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			http.ReadRequest(bufio.NewReader(conn))
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(first), first)
			files[i], _ = conn.(*net.TCPConn).File()
			fds[i] = int(files[i].Fd())
			conn.Close()
		}
	}()
	readers, _, finish := l.start(b)
	now := time.Now()
	event := formatMessage(message{ID: now.UnixMicro(), Name: "Ada", Text: l.text(), Time: now})
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(event), event)
	begin := time.Now().Add(50 * time.Millisecond)
	fmt.Fprintln(readers, begin.UnixNano())
	time.Sleep(time.Until(begin))
	used := cpu()
	for i := range l.Messages {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * l.Pace)))
		for _, fd := range fds {
			syscall.Write(fd, chunk)
		}
	}
	used = cpu() - used
	got := finish()
	for _, file := range files {
		file.Close()
	}
	return got, used
}

func (l load) text() string { return strings.Repeat("🙂", max(l.Size/4, 6)) }

// start starts the process of a load, returns how long it takes until it is ready, where to
// write when it is to begin (nanoseconds since 1970), and what returns its result.
func (l load) start(b *testing.B) (begin io.Writer, ready time.Duration, finish func() result) {
	spec, _ := json.Marshal(l)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SSECHAT_LOAD="+string(spec))
	cmd.Stderr = os.Stderr
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	started := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	answers := bufio.NewReader(out)
	if line, err := answers.ReadString('\n'); err != nil {
		b.Fatalf("%s%v", line, err)
	}
	return in, time.Since(started), func() (got result) {
		in.Close()
		if err := json.NewDecoder(answers).Decode(&got); err != nil {
			b.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || got.Delivered != l.Readers*l.Messages {
			b.Fatalf("%d of %d messages were delivered: %v", got.Delivered, l.Readers*l.Messages, err)
		}
		return got
	}
}

// runLoad is the process of a load.
func runLoad(spec string) {
	var l load
	if err := json.Unmarshal([]byte(spec), &l); err != nil {
		log.Fatal(err)
	}
	bodies := make([]io.Reader, l.Readers+l.Stalled)
	var wg sync.WaitGroup
	for first := range 100 { // at a time
		wg.Go(func() {
			for i := first; i < len(bodies); i += 100 {
				bodies[i] = l.connect()
			}
		})
	}
	wg.Wait()
	fmt.Println("ready")
	var begin int64
	fmt.Scanln(&begin)
	due := func(i int) time.Time { return time.Unix(0, begin).Add(time.Duration(i) * l.Pace) }
	if l.Posting {
		body := `{"name":"Ada","message":"` + l.text() + `"}`
		for i := range l.Messages {
			time.Sleep(time.Until(due(i)))
			resp, err := http.Post(l.Addr+"/message", jsonType, strings.NewReader(body))
			if err != nil || resp.StatusCode != http.StatusOK {
				log.Fatal(resp, err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
	waits := make([][]float64, l.Readers)
	sums := make([]uint32, l.Readers) // of all bytes, so that one order for all is one sum
	for i, body := range bodies[:l.Readers] {
		wg.Go(func() {
			buf := make([]byte, 16<<10)
			for lines := 0; len(waits[i]) < l.Messages; {
				n, err := body.Read(buf)
				if err != nil {
					log.Fatal(err)
				}
				lines += bytes.Count(buf[:n], []byte("\n"))
				sums[i] = crc32.Update(sums[i], crc32.IEEETable, buf[:n])
				for now := time.Now(); len(waits[i]) < lines/3; { // an event is three lines
					waits[i] = append(waits[i], float64(now.Sub(due(len(waits[i]))).Microseconds())/1e3)
				}
			}
		})
	}
	wg.Wait()
	got := result{Seconds: time.Since(time.Unix(0, begin)).Seconds()}
	if len(slices.Compact(slices.Sorted(slices.Values(sums)))) > 1 {
		log.Fatal("the readers did not all get the same")
	}
	all := slices.Concat(waits...)
	slices.Sort(all)
	if got.Delivered = len(all); got.Delivered > 0 {
		got.P99, got.Last = all[len(all)*99/100], all[len(all)-1]
	}
	json.NewEncoder(os.Stdout).Encode(got)
}

// connect opens a stream and reads what comes before the load begins.
func (l load) connect() io.Reader {
	conn, err := net.Dial("tcp", strings.TrimPrefix(l.Addr, "http://"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: %s\r\n\r\n", l.After)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		log.Fatal(err)
	}
	body := bufio.NewReader(resp.Body)
	for kept, here := 0, false; kept < l.Kept || !here; {
		line, err := body.ReadString('\n')
		if err != nil {
			log.Fatal(err)
		}
		if strings.HasPrefix(line, `data: {"name"`) {
			kept++
		}
		if strings.HasPrefix(line, `data: {"count"`) {
			here = true
		}
	}
	body.ReadString('\n')
	return body
}

// cpu returns the CPU time that this process has used.
func cpu() time.Duration {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// memory returns the bytes that this process has from the system and uses.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// What follows are helpers. First, a server:

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// start runs a room until the test ends, and returns its URL.
func start(t testing.TB, origin string) string {
	addr, stop := startOn(t, listen(t, "127.0.0.1:0"), origin)
	t.Cleanup(stop)
	return addr
}

// startOn runs a room on listener until stop is called.
func startOn(t testing.TB, listener net.Listener, origin string) (addr string, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, listener, origin) }()
	return "http://" + listener.Addr().String(), func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A pipeListener accepts connections in memory, over which synctest's clock advances.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	close(l.closed)
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// Then, clients:

var client = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport:     &http.Transport{MaxIdleConnsPerHost: 10},
}

// do sends a request, with lines of header such as "Origin: null", and returns the response.
func do(t testing.TB, method, url, kind, body string, header ...string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for _, line := range header {
		if key, value, ok := strings.Cut(line, ": "); ok {
			req.Header.Set(key, value)
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// post posts a message that is accepted.
func post(t testing.TB, addr, name, text string) {
	t.Helper()
	resp := do(t, "POST", addr+"/message", formType, url.Values{"name": {name}, "message": {text}}.Encode())
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound {
		t.Fatalf("post: %s", resp.Status)
	}
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(addr, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func equal(t *testing.T, got, want []said) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %d messages, want %d, or others", len(got), len(want))
	}
}

// A reader reads a stream as the HTML standard has it (section 9.2.6), and is stricter: it
// takes no field, no line end and no space that this server does not write, and retry in the
// first block alone, which subscribe reads.
type reader struct {
	t     testing.TB
	body  io.ReadCloser
	lines *bufio.Reader
	first string   // id of the first block
	id    string   // last event id
	here  []string // data of users events not yet looked at
}

type event struct{ kind, id, data string }

// What was said, as the stream tells it.
type said struct {
	ID   int64     `json:"-"`
	Name string    `json:"name"`
	Text string    `json:"message"`
	Time time.Time `json:"time"`
}

// subscribe opens a stream and reads its first block.
func subscribe(t testing.TB, addr, query, lastEventID string) *reader {
	t.Helper()
	var header []string
	if lastEventID != "" {
		header = append(header, "Last-Event-ID: "+lastEventID)
	}
	resp := do(t, "GET", addr+"/events"+query, "", "", header...)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("stream is %s, %q", resp.Status, resp.Header.Get("Content-Type"))
	}
	r := &reader{t: t, body: resp.Body, lines: bufio.NewReader(resp.Body)}
	var retry int
	if _, err := fmt.Fscanf(r.lines, "retry: %d\nid: %s\n\n", &retry, &r.first); err != nil {
		t.Fatalf("first block: %v", err)
	}
	r.id = r.first
	return r
}

func (r *reader) close() { r.body.Close() }

// read returns the next event, or the error that the stream ends with.
func (r *reader) read() (event, error) {
	var e event
	var data []string
	for {
		line, err := r.lines.ReadString('\n')
		if err != nil {
			return e, err
		}
		line = strings.TrimSuffix(line, "\n")
		if strings.ContainsAny(line, "\r\x00") || !utf8.ValidString(line) {
			return e, fmt.Errorf("line %q", line)
		}
		field, value, _ := strings.Cut(line, ":")
		if value != "" && field != "" && (value[0] != ' ' || len(value) == 1 || value[1] == ' ') {
			return e, fmt.Errorf("line %q", line)
		}
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.kind = value
		case "data":
			data = append(data, value)
		case "":
			if line != "" { // a comment
				continue
			}
			r.id = cmp.Or(e.id, r.id) // not before: what breaks off in mid-event has not come
			if data == nil {
				e = event{} // it was a comment, or an id alone
				continue
			}
			e.data = strings.Join(data, "\n")
			return e, nil
		default:
			return e, fmt.Errorf("line %q", line)
		}
	}
}

// end reads to the end of the stream and returns the error it ends with.
func (r *reader) end() error {
	for {
		if _, err := r.read(); err != nil {
			return err
		}
	}
}

// next returns the next event that is not about users.
func (r *reader) next() event {
	r.t.Helper()
	for {
		e, err := r.read()
		if err != nil {
			r.t.Fatal(err)
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
	for range n {
		e := r.next()
		var m said
		if err := json.Unmarshal([]byte(e.data), &m); err != nil || e.kind != "" || e.id == "" {
			r.t.Fatalf("event %+v is no message: %v", e, err)
		}
		m.ID, _ = strconv.ParseInt(e.id, 10, 64)
		all = append(all, m)
	}
	return all
}

// users returns the data of the next users event.
func (r *reader) users() string {
	r.t.Helper()
	if len(r.here) > 0 {
		data := r.here[0]
		r.here = r.here[1:]
		return data
	}
	e, err := r.read()
	if err != nil || e.kind != "users" {
		r.t.Fatalf("got %+v and %v, want users", e, err)
	}
	return e.data
}

// Last, a browser:

// A browser is a Chromium with an empty profile, a ChromeDriver that it obeys, and a chat
// to visit. ChromeDriver speaks WebDriver (https://www.w3.org/TR/webdriver2): JSON over HTTP.
type browser struct {
	*testing.T
	session  string         // URL of what is to be obeyed
	url      string         // of the chat
	expected *regexp.Regexp // what the test itself makes the browser complain of
}

// A window is one of its windows, each a visitor of its own: they do not share sessionStorage.
type window struct {
	*browser
	handle string
}

type dict map[string]any

const (
	enter   = "\uE007" // WebDriver's names of keys
	shift   = "\uE008"
	control = "\uE009"
	release = "\uE000" // of shift and control
)

// newBrowser starts a browser that can visit the chat at url. At the end of the test its
// console must be empty, except for what is expected.
func newBrowser(t *testing.T, url string) *browser {
	t.Helper()
	b := &browser{T: t, url: url}
	driver := startDriver(t)
	var made struct{ SessionID string }
	b.post(driver+"/session", dict{"capabilities": dict{"alwaysMatch": dict{
		"goog:loggingPrefs": dict{"browser": "ALL"},
		"goog:chromeOptions": dict{"args": strings.Fields("--headless=new --no-sandbox --disable-gpu --disable-quic " +
			"--no-first-run --disable-background-networking --disable-component-update --disable-sync")},
	}}}, &made)
	b.session = driver + "/session/" + made.SessionID
	t.Cleanup(func() {
		var console []struct{ Level, Message string }
		b.post(b.session+"/se/log", dict{"type": "browser"}, &console)
		for _, line := range console {
			if b.expected == nil || !b.expected.MatchString(line.Message) {
				t.Errorf("console: %s %s", line.Level, line.Message)
			}
		}
	})
	return b
}

// say posts a message, not from the browser.
func (b *browser) say(name, text string) { b.Helper(); post(b, b.url, name, text) }

// startDriver starts a ChromeDriver for the time of the test and returns its URL.
func startDriver(t *testing.T) (url string) {
	t.Helper()
	path, err := exec.LookPath("chromedriver")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("there is no ChromeDriver:", err)
	}
	driver := exec.Command(path, "--port=0")
	driver.Env = append(os.Environ(), "TMPDIR="+t.TempDir()) // profiles are put there
	stdout, _ := driver.StdoutPipe()
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := http.Get(url + "/shutdown"); err != nil {
			driver.Process.Kill()
		}
		io.Copy(io.Discard, stdout) // until the last process of Chromium has ended, too
		driver.Wait()
	})
	for lines := bufio.NewScanner(stdout); url == "" && lines.Scan(); {
		if _, port, found := strings.Cut(lines.Text(), "started successfully on port "); found {
			url = "http://127.0.0.1:" + strings.TrimSuffix(port, ".")
		}
	}
	return url
}

// post has ChromeDriver do something and decodes what comes of it into result.
func (b *browser) post(url string, parameters dict, result any) {
	b.Helper()
	body, _ := json.Marshal(parameters)
	response, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		message, _ := io.ReadAll(response.Body)
		b.Fatalf("%s %s: %s", url, body, message)
	}
	if err := json.NewDecoder(response.Body).Decode(&struct{ Value any }{result}); err != nil {
		b.Fatal(err)
	}
}

// open opens the page in a window of its own and waits until it is live.
func (b *browser) open() *window {
	b.Helper()
	w := b.window()
	w.visit(b.url)
	w.wait("state()", "live")
	return w
}

func (b *browser) window() *window {
	b.Helper()
	var made struct{ Handle string }
	b.post(b.session+"/window/new", dict{"type": "window"}, &made)
	return &window{b, made.Handle}
}

// do is post for this window.
func (w *window) do(path string, parameters dict, result any) {
	w.Helper()
	w.post(w.session+"/window", dict{"handle": w.handle}, nil)
	w.post(w.session+path, parameters, result)
}

func (w *window) visit(url string) { w.Helper(); w.do("/url", dict{"url": url}, nil) }
func (w *window) reload()          { w.Helper(); w.do("/refresh", dict{}, nil) }
func (w *window) back()            { w.Helper(); w.do("/back", dict{}, nil) }

// command gives a command of the Chrome DevTools Protocol, for what WebDriver cannot do.
func (w *window) command(name string, parameters dict) {
	w.Helper()
	w.do("/goog/cdp/execute", dict{"cmd": name, "params": parameters}, nil)
}

func (w *window) click(selector string) { w.Helper(); w.element(selector, "/click", dict{}) }
func (w *window) keys(selector, text string) {
	w.Helper()
	w.element(selector, "/value", dict{"text": text})
}

// element is do for an element of the page.
func (w *window) element(selector, path string, parameters dict) {
	w.Helper()
	var found map[string]string
	w.do("/element", dict{"using": "css selector", "value": selector}, &found)
	for _, id := range found { // one, under a name that only WebDriver knows
		w.do("/element/"+id+path, parameters, nil)
	}
}

// rename puts another name in the place of the made-up one.
func (w *window) rename(name string) {
	w.Helper()
	w.keys("#name", control+"a"+release+name+enter)
}

// eval returns the value of a JavaScript expression, as a string.
func (w *window) eval(expression string) (value string) {
	w.Helper()
	w.do("/execute/sync", dict{"args": []any{}, "script": `
		const $ = selector => document.querySelector(selector);
		const all = selector => [...document.querySelectorAll(selector)];
		const texts = selector => all(selector).map(element => element.textContent.trim());
		const state = () => $("#state").dataset.state;
		const names = () => texts("#here li").join(", ");
		const number = selector => Number($(selector).textContent.replace(/\D/g, ""));
		const messages = () => all("#log li[data-id]").map(li =>
			li.querySelector(".name").textContent.trim() + ": " + li.querySelector(".text").innerText).join(" | ");
		try {
			return String(` + expression + `);
		} catch (error) {
			return String(error);
		}`}, &value)
	return value
}

// wait waits until a JavaScript expression has the value.
func (w *window) wait(expression, want string) {
	w.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		got := w.eval(expression)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("%s is still %q, want %q", expression, got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// shows waits until these are the messages in the document: all, in order, each once.
func (w *window) shows(messages ...string) {
	w.Helper()
	w.wait("messages()", strings.Join(messages, " | "))
}
