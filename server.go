// Ssechat is a group chat over Server-Sent Events, or SSE (HTML standard §9.2).
//
//	go run server.go
//
// Then open http://localhost:3000 in two browser tabs.
//
// The server keeps the latest messages in one list, the log. POST /message appends a message to
// it. GET /events gives a reader a stream, a response that does not end. Each stream has a place
// in the log, the id after which it continues. It writes all messages after that place, and then
// waits for more. New, slow, and reconnecting readers differ only in their place.
package main

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os/signal"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// PART ONE: THE CHAT

const historySize = 10_000         // messages kept; a reader that falls further behind misses some
const latestSize = 200             // messages that the page and a new reader start with
const heartbeat = 15 * time.Second // interval; proxies and phones close silent connections

// A room holds the state of the chat: the log, the open streams, and who is here.
type room struct {
	mu      sync.Mutex // guards log, streams, users, and left; not held during a write to a client
	log     messageLog
	streams map[*stream]bool
	users   string               // who is here, as JSON
	left    map[string]time.Time // names of streams that ended recently, and when

	wakes, announcements throttle // limit how often wake and announce run
}

// A stream is an open response to GET /events. Only its handler uses w, until the handler returns.
type stream struct {
	w      http.ResponseWriter
	wake   chan struct{} // buffers one signal, which means that there may be more to write
	name   string        // the reader's name; empty if the reader is not listed
	lastID int64         // the stream's place: the id after which it continues
	users  string        // the value of room.users that was written last
}

// A messageLog holds one entry that only marks its start, and then the latest messages, oldest
// first. It has every message whose id is greater than that of the first entry.
type messageLog []message

// A message is one entry in the log.
type message struct {
	ID    int64     `json:"-"` // the time in microseconds, so a restart does not reuse ids
	Name  string    `json:"name"`
	Text  string    `json:"message"`
	Time  time.Time `json:"time"`
	event []byte    // its event, encoded once for all readers
}

// page serves the HTML page with the latest messages and the id after which its script resumes.
func (r *room) page(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	latest := slices.Clone(r.log.latest(latestSize)) // A slow client must not keep the whole log.
	r.mu.Unlock()
	after := latest.newest().ID
	data := map[string]any{"Messages": latest[1:], "After": after, "Nonce": protectPage(w)}
	index.Execute(w, data) // This fails only if the client has gone, or is too slow.
}

// post publishes a message. It answers a form with a redirect to the page, so that posting works
// without JavaScript and reloading the page does not post again.
func (r *room) post(w http.ResponseWriter, req *http.Request) {
	kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	name, text, ok := readPost(w, req, kind)
	if !ok {
		return
	}
	m := r.publish(name, text)
	if kind == formType {
		http.Redirect(w, req, "/", http.StatusFound)
		return
	}
	w.Header().Set("Content-Type", jsonType)
	json.NewEncoder(w).Encode(m)
}

// publish appends a message to the log, and wakes the streams.
func (r *room) publish(name, text string) message {
	r.mu.Lock()
	id := max(r.log.newest().ID+1, time.Now().UnixMicro()) // Ids rise even if the clock does not.
	m := message{ID: id, Name: name, Text: text, Time: time.UnixMicro(id).UTC()}
	r.log.add(m)
	r.mu.Unlock()
	r.wakeSoon()
	return m
}

// wake tells all streams that there may be more to write.
func (r *room) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.streams {
		select {
		case s.wake <- struct{}{}:
		default: // An earlier signal is still in the buffer.
		}
	}
}

// events serves a stream. Its loop writes the events from next, and waits when there are none.
func (r *room) events(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	s := newStream(w, req) // Its place is the last id that the client sent, if any.
	if s == nil {
		return
	}
	r.subscribe(s) // A reader without an id gets a place before the latest messages.
	defer r.unsubscribe(s)
	// No blank line follows, so these lines begin the event that r.next returns. Alone, they would
	// be an empty event to some clients. Clients wait retry milliseconds before they reconnect; the
	// number is random to spread the load.
	fmt.Fprintf(w, "retry: %d\nid: %d\n", 1000+rand.IntN(1001), s.lastID)
	beat := time.Tick(heartbeat)
	for {
		events := r.next(s)
		if events == nil {
			select {
			case <-s.wake:
				continue
			case <-beat:
				events = []byte(":\n") // This comment is no event, so no blank line follows.
			case <-req.Context().Done():
				return // The client has gone, or the server is stopping.
			}
		}
		if s.write(events) != nil {
			return // The reader will reconnect with the last id that it got.
		}
	}
}

// next returns events for s to write, or nil if there are none, and moves s.lastID past them.
func (r *room) next(s *stream) (events []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.users != r.users { // This is always so for a new stream.
		s.users = r.users
		return fmt.Appendf(nil, "event: users\ndata: %s\nid: %d\n\n", s.users, s.lastID)
	}
	events, s.lastID = r.log.after(s.lastID)
	return events
}

// format encodes m as an event, which ends with a blank line (HTML §9.2.5). Its JSON has no line
// breaks, so nobody can fake an event. The id is last because some clients store it at once.
func (m message) format() []byte {
	data, _ := json.Marshal(m) // Encoding strings and a time cannot fail.
	return fmt.Appendf(nil, "data: %s\nid: %d\n\n", data, m.ID)
}

// add appends a message, and drops the oldest if there are more than historySize.
func (l *messageLog) add(m message) {
	m.event = l.store(m.format())
	*l = append(*l, m).latest(historySize)
}

func (l messageLog) newest() message { return l[len(l)-1] }

// latest returns the latest n messages, preceded by the entry that marks their start.
func (l messageLog) latest(n int) messageLog { return l[max(0, len(l)-1-n):] }

// after returns the next events after an id, perhaps not all, and the id of the last of them. If
// messages after the id may be missing, it returns an event that says so, and a new place. If that
// event is lost with the connection, the client comes back with its old id, and is told again.
func (l messageLog) after(id int64) (events []byte, lastID int64) {
	place := max(id, l[0].ID) // Messages between these two may be gone.
	if id > l.newest().ID {   // The clock was set back, or the id is made up.
		place = l.latest(latestSize)[0].ID
	}
	if place != id { // Without its data line, clients would ignore this event.
		return fmt.Appendf(nil, "event: missed\ndata:\nid: %d\n\n", place), place
	}
	next := sort.Search(len(l), func(i int) bool { return l[i].ID > id })
	if next == len(l) {
		return nil, id
	}
	return l[next:].joined()
}

// PART TWO: WHAT A PUBLIC CHAT NEEDS (one section for each danger)

// Input and its limits. Without them, one request could use up all memory, a malformed form would
// be reported as a blank message, and a name of a thousand lines would fill everybody's page.

const maxName = 50       // characters; index.html has the number, too
const maxMessage = 2000  // characters
const maxBody = 64 << 10 // bytes; the longest message, 2,000 emoji, takes 24,000 in a form
const formType = "application/x-www-form-urlencoded"
const jsonType = "application/json"

var badName = fmt.Sprintf("A name must be one line of at most %d characters.", maxName)

// readPost returns the name and the text of a post. If it has refused the post, ok is false.
func readPost(w http.ResponseWriter, req *http.Request, kind string) (name, text string, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	var post struct{ Name, Message string }
	if kind == jsonType && err == nil {
		err = json.Unmarshal(body, &post)
	}
	if kind == formType && err == nil {
		var form url.Values
		form, err = url.ParseQuery(string(body)) // req.FormValue would ignore this error.
		post.Name, post.Message = form.Get("name"), form.Get("message")
	}
	name, text = cmp.Or(clean(post.Name), "guest"), clean(post.Message)
	status, reason := http.StatusBadRequest, ""
	switch {
	case kind != formType && kind != jsonType:
		status, reason = http.StatusUnsupportedMediaType, "Send a URL-encoded form or JSON."
	case errors.As(err, new(*http.MaxBytesError)):
		status = http.StatusRequestEntityTooLarge
		reason = fmt.Sprintf("A post is limited to %d bytes.", maxBody)
	case errors.As(err, new(*json.UnmarshalTypeError)):
		reason = "Send a JSON object whose name and message are strings."
	case err != nil:
		reason = "The form or JSON is malformed or incomplete."
	case len([]rune(text)) > maxMessage:
		status = http.StatusRequestEntityTooLarge
		reason = fmt.Sprintf("A message is limited to %d characters.", maxMessage)
	case text == "":
		reason = "The message is blank."
	case !isName(name):
		reason = badName
	default:
		return name, text, true
	}
	http.Error(w, reason, status)
	return "", "", false
}

// newStream returns a new stream, or nil if it has answered the request itself. It ignores a
// malformed id, because EventSource does not reconnect after an error status.
func newStream(w http.ResponseWriter, req *http.Request) *stream {
	if req.ContentLength != 0 { // With an unread body, net/http cannot notice a disconnect.
		http.Error(w, "A stream request must not have a body.", http.StatusBadRequest)
		return nil
	}
	name := clean(req.FormValue("name"))
	if !isName(name) {
		http.Error(w, badName, http.StatusBadRequest)
		return nil
	}
	after := cmp.Or(req.Header.Get("Last-Event-ID"), req.FormValue("after"))
	id, _ := strconv.ParseInt(after, 10, 64)
	w.Header().Set("Cache-Control", "no-cache, no-transform") // Compression would delay events,
	w.Header().Set("X-Accel-Buffering", "no")                 // and so would buffering in nginx.
	if req.Method == http.MethodHead {
		return nil // ServeMux also routes HEAD requests here, which get only headers.
	}
	return &stream{w: w, wake: make(chan struct{}, 1), name: name, lastID: id}
}

// isName reports whether s is one line of at most maxName characters. It may be empty.
func isName(s string) bool {
	return len([]rune(s)) <= maxName && !strings.ContainsAny(s, "\n\v\f\u0085\u2028\u2029")
}

// clean returns s as valid UTF-8 with LF line endings and no white space at either end. It returns
// a copy, because a part of s would keep all of s in memory.
func clean(s string) string {
	lineEnds := strings.NewReplacer("\r\n", "\n", "\r", "\n")
	return strings.Clone(strings.TrimSpace(lineEnds.Replace(strings.ToValidUTF8(s, "\uFFFD"))))
}

// Who is here. Without this, readers would not know whom they are talking to. Announcing each of N
// arrivals to N readers would take N² events, so changes are collected and announced together.
// Each event replaces the last one, so a slow reader can skip some.

const maxListed = 100              // names in one event
const announcePause = time.Second  // minimum time between announcements
const returnTime = 3 * time.Second // how long a name outlives its stream

// subscribe adds s to the streams. It runs before the first call to next, so s misses no signal.
func (r *room) subscribe(s *stream) {
	r.mu.Lock()
	r.streams[s] = true
	if s.lastID <= 0 { // The client sent no valid id.
		s.lastID = r.log.latest(latestSize)[0].ID
	}
	r.mu.Unlock()
	if s.name != "" {
		r.announcements.do(r.announce, announcePause)
	}
}

// unsubscribe removes s from the streams. Its name stays listed for at least returnTime, because
// somebody who reloads the page has not left.
func (r *room) unsubscribe(s *stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, s)
	if s.name != "" {
		r.left[s.name] = time.Now()
		time.AfterFunc(returnTime, func() { r.announcements.do(r.announce, announcePause) })
	}
}

// announce updates the list of who is here, and wakes the streams to send it.
func (r *room) announce() {
	r.mu.Lock()
	isOver := func(_ string, end time.Time) bool { return time.Since(end) >= returnTime }
	maps.DeleteFunc(r.left, isOver)
	names := slices.AppendSeq([]string{}, maps.Keys(r.left)) // JSON for a nil slice would be null.
	for s := range r.streams {
		if s.name != "" {
			names = append(names, s.name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	listed := names[:min(len(names), maxListed)]
	data, _ := json.Marshal(map[string]any{"count": len(names), "names": listed})
	r.users = string(data)
	r.mu.Unlock()
	r.wakeSoon()
}

// Other sites. Without this, a page on any site could post through its visitors' browsers (CSRF),
// or open streams that add names to the list. With -origin, one other site may read and post as
// our page does (CORS). CSP blocks scripts injected into our page.

// originPattern matches a scheme, a host name or an IP address, and perhaps a port.
var originPattern = regexp.MustCompile(
	`^(https?)://(?:[a-z0-9_.-]*[a-z_-][a-z0-9_-]*\.?|([0-9.]+)|\[([0-9a-f:]+)])(?::([1-9]\d*))?$`)

// isOrigin reports whether s is an origin as browsers write it: in lower case and ASCII, without a
// default port (HTML §7.1.1).
func isOrigin(s string) bool {
	parts := originPattern.FindStringSubmatch(s)
	if parts == nil {
		return false
	}
	scheme, ip, port := parts[1], parts[2]+parts[3], parts[4]
	isHost := ip == "" || net.ParseIP(ip).String() == ip
	_, err := net.LookupPort("tcp", port) // This fails for a port above 65535.
	return isHost && err == nil && scheme+port != "http80" && scheme+port != "https443"
}

// handler returns the handler for all requests. origin is the value of -origin, and may be empty.
func (r *room) handler(origin string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", r.page)
	mux.HandleFunc("POST /message", r.post)
	mux.HandleFunc("GET /events", r.events)
	protection := http.NewCrossOriginProtection()
	protection.AddTrustedOrigin(origin) // This fails only for an empty origin, which adds nothing.
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if origin != "" {
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Allow-Headers", "Content-Type, Last-Event-ID")
			if req.Method == http.MethodOptions {
				return // Browsers send this preflight before a cross-origin JSON post.
			}
		}
		check := *req // a copy, because mux must see the real method
		if req.URL.Path == "/events" {
			// Check allows any GET, but this one adds a name. Over plain HTTP, except on localhost,
			// browsers do not always say which site a GET comes from, and then it passes.
			check.Method = http.MethodPost
		}
		if protection.Check(&check) != nil {
			http.Error(w, "A page from another origin may not do this.", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, req)
	})
}

// protectPage sets the page's security headers. It returns a nonce, which every script and style
// must have.
func protectPage(w http.ResponseWriter) (nonce string) {
	nonce = cryptorand.Text()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", fmt.Sprintf("default-src 'none'; "+
		"script-src 'nonce-%s'; style-src 'nonce-%s'; connect-src 'self'; img-src data:; "+
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'", nonce, nonce))
	return nonce
}

// Slow readers and bursts. Without this, a client that accepts nothing would keep its stream
// forever, and a burst would cost a system call for each message to each reader.

const writeTimeout = 30 * time.Second        // for a client to accept one write
const arraySize = 64 << 10                   // bytes in one write; a stalled reader keeps as many
const pausePerStream = 30 * time.Microsecond // each stream adds this to the pause between wakes

// write sends events. It fails if the client has gone or does not accept them within writeTimeout.
func (s *stream) write(events []byte) error {
	response := http.NewResponseController(s.w)
	response.SetWriteDeadline(time.Now().Add(writeTimeout))
	s.w.Write(events)
	return response.Flush() // Flush also returns any error from Write.
}

// store appends event to the newest event's array, so that one Write can send both. If there is no
// room, it begins a new array. It returns the stored copy. Stored bytes never change, so streams
// can send them without holding the lock.
func (l messageLog) store(event []byte) []byte {
	newest := l.newest().event
	if len(newest)+len(event) > cap(newest) {
		newest = make([]byte, 0, arraySize)
	}
	return append(newest, event...)[len(newest):]
}

// joined returns the events of l that share an array with the first one, as one slice, and the id
// of the last of them.
func (l messageLog) joined() (events []byte, lastID int64) {
	array := l[0].event[:cap(l[0].event)]
	size := 0
	for _, m := range l {
		if size == len(array) || &m.event[0] != &array[size] {
			break // This event is in another array.
		}
		size += len(m.event)
		lastID = m.ID
	}
	return array[:size], lastID
}

// wakeSoon calls wake at once or, in a burst, after a pause about as long as all streams take to
// write, so that each write sends many messages. Without pauses, bursts take three times as long.
func (r *room) wakeSoon() {
	r.mu.Lock()
	pause := pausePerStream * time.Duration(len(r.streams))
	r.mu.Unlock()
	r.wakes.do(r.wake, pause)
}

// A throttle limits how often a function runs.
type throttle struct {
	mu      sync.Mutex // also held while the function runs
	next    time.Time  // the earliest time for the next call
	pending bool       // whether that call is scheduled
}

// do calls f now, or when the pause after f's last call is over. All calls of do during a pause
// cause one call of f. pause is the minimum time from this call of f to the next.
func (t *throttle) do(f func(), pause time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := time.Until(t.next)
	if wait <= 0 {
		t.pending = false
		t.next = time.Now().Add(pause)
		f()
	} else if !t.pending {
		t.pending = true
		time.AfterFunc(wait, func() { t.do(f, pause) })
	}
}

// Starting and stopping. Without this, an unfinished request would hold its connection forever,
// and ^C would either cut off posts or wait forever for the streams to end.

const readTimeout = 15 * time.Second    // for a request to arrive, or the next one to begin
const shutdownTimeout = 3 * time.Second // for requests in progress to finish

//go:embed index.html
var indexHTML string // embedded, so the program runs in any directory
var index = template.Must(template.New("index.html").Parse(indexHTML))

// newRoom returns an empty room.
func newRoom() *room {
	r := &room{
		log:     messageLog{{ID: time.Now().UnixMicro()}},
		streams: make(map[*stream]bool),
		left:    make(map[string]time.Time),
	}
	r.announce() // Each stream starts with the event users, which this prepares.
	return r
}

func main() {
	addr := flag.String("addr", "localhost:3000", "`address` to listen on")
	origin := flag.String("origin", "", "another `origin` whose pages may read and post")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("unexpected argument %q", flag.Arg(0))
	}
	if *origin != "" && !isOrigin(*origin) {
		log.Fatalf("-origin %q is not an origin as a browser sends it, such as "+
			"https://app.example (lower case, without a path or a default port)", *origin)
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	if net.ParseIP(host).IsUnspecified() {
		host = "localhost" // Firefox refuses to open addresses such as [::].
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second ^C ends the process at once
	log.Print("The chat is at http://", net.JoinHostPort(host, port))
	if err := serve(ctx, listener, newRoom().handler(*origin)); err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until ctx is done. It then ends the streams, and finishes other requests.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:      handler,
		ReadTimeout:  readTimeout,  // for a request to arrive; it does not limit a stream
		WriteTimeout: writeTimeout, // also runs while a body arrives; a stream resets it
		// Every request's context derives from ctx, so the streams end with it.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	timeout, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	server.Shutdown(timeout)
	return server.Close() // This cuts off the requests that have not finished.
}
