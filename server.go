// Ssechat is a group chat over Server-Sent Events, or SSE (HTML standard §9.2). To see it, run
//
//	go run server.go
//
// and open http://localhost:3000 in two browser tabs.
//
// The server answers a reader's GET /events with a stream, a response that does not end. For each
// message, the stream carries one event, which ends with a blank line:
//
//	data: {"name":"Ada","message":"Hello","time":"2026-11-20T17:41:26.294003Z"}
//	id: 1795196480000042
//
// If the connection breaks, the browser reconnects automatically, and sends the id of the last
// event that it received as Last-Event-ID.
//
// The server keeps the latest messages in its log, to which POST /message appends. Each stream has
// a place in the log, the id after which it continues. It writes the messages after its place
// until there are no more, and then waits to be woken. New, slow, and reconnecting readers differ
// only in their places.
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
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// PART ONE: THE CHAT

const logSize = 10_000                // messages kept; a reader further behind misses some
const latestSize = 200                // messages that the page and a new reader start with
const heartbeat = 15 * time.Second    // because proxies and phones close idle connections
const pause = 50 * time.Millisecond   // the minimum time between a stream's flushes
const writeTimeout = 30 * time.Second // at most, for a reader to accept ten events

// A room holds the state of the chat. It is only in memory, so a restart loses it. mu is not held
// during a write to a reader, or a slow reader would stop everyone.
type room struct {
	mu       sync.Mutex           // guards the fields below
	lastID   int64                // the newest id; ids are consecutive
	log      []message            // the latest messages, oldest first
	streams  map[*stream]bool     // the open streams
	lastSeen map[string]time.Time // when each name last had a stream; for updateUsers
	users    string               // who is here, as JSON; set by updateUsers
}

// A stream is an open response to GET /events.
type stream struct {
	w         http.ResponseWriter // used only by the stream's own handler
	wake      chan struct{}       // buffers one signal that there may be more to write
	name      string              // the reader's name, or empty if it is not listed
	lastID    int64               // the stream's place, after which it continues
	sentUsers string              // the room.users that it sent last; empty to resend
}

// A message is what someone posted.
type message struct {
	ID    int64     `json:"-"` // The event has its own line for this.
	Name  string    `json:"name"`
	Text  string    `json:"message"`
	Time  time.Time `json:"time"`
	event string    // the message as every stream carries it
}

// newRoom returns an empty room and updates its users until ctx is done. Ids start at the time in
// microseconds, so that a restarted server reuses none.
func newRoom(ctx context.Context) *room {
	r := &room{
		lastID:   time.Now().UnixMicro(),
		streams:  make(map[*stream]bool),
		lastSeen: make(map[string]time.Time),
		users:    `{"count":0,"names":[]}`,
	}
	go r.updateUsers(ctx)
	return r
}

// page serves the HTML page with the latest messages and the id after which its script resumes.
func (r *room) page(w http.ResponseWriter, _ *http.Request) {
	nonce := protectPage(w)
	r.mu.Lock()
	latest := slices.Clone(r.log[max(0, len(r.log)-latestSize):])
	data := map[string]any{"Messages": latest, "LastID": r.lastID, "Nonce": nonce}
	r.mu.Unlock()
	index.Execute(w, data) // It fails only if the client has gone or is slow.
}

const formType = "application/x-www-form-urlencoded"
const jsonType = "application/json"

// post publishes a message. It answers a form with a redirect to the page, so that posting works
// without JavaScript, and reloading the page does not post again. It answers JSON with the data
// that readers get.
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

// publish encodes a message once for all readers, appends it to the log, and wakes the streams.
// JSON escapes LF and CR, so the data is one line, and a message cannot contain a fake event. The
// data comes before the id, because some clients store an id before they have the whole event.
func (r *room) publish(name, text string) message {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID++
	m := message{ID: r.lastID, Name: name, Text: text, Time: time.Now().UTC()}
	data, _ := json.Marshal(m) // Encoding strings and a time cannot fail.
	m.event = fmt.Sprintf("data: %s\nid: %d\n\n", data, m.ID)
	r.log = append(r.log, m)
	if len(r.log) > logSize {
		r.log = r.log[1:] // The first is freed when append next copies the log.
	}
	r.wakeAll()
	return m
}

// wakeAll wakes every stream to write what is new. The caller must hold r.mu.
func (r *room) wakeAll() {
	for s := range r.streams {
		select {
		case s.wake <- struct{}{}:
		default: // One is pending, and write writes all there is.
		}
	}
}

// events serves a stream until the reader leaves or the server stops. It registers the stream
// before writing anything, so that no wake-up is missed.
func (r *room) events(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache, no-transform") // Compression delays events.
	w.Header().Set("X-Accel-Buffering", "no")                 // So does buffering in nginx.
	if req.Method == http.MethodHead {
		return // ServeMux routes HEAD requests here, too.
	}
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		http.Error(w, "The query is malformed.", http.StatusBadRequest)
		return
	}
	// When a browser reconnects, its URL is the old one, so the header is newer than the query.
	after := cmp.Or(req.Header.Get("Last-Event-ID"), query.Get("after"))
	lastID, idErr := strconv.ParseUint(after, 10, 63) // 63 bits, so that it fits an int64
	s := &stream{w: w, wake: make(chan struct{}, 1), lastID: int64(lastID)}
	s.name = cleanName(query.Get("name"))
	r.mu.Lock()
	r.streams[s] = true
	if idErr != nil { // A bad id counts as none: browsers give up after a 400.
		s.lastID = r.lastID - int64(min(len(r.log), latestSize))
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.streams, s)
		r.lastSeen[s.name] = time.Now()
		r.mu.Unlock()
	}()
	beat := time.Tick(heartbeat)
	for r.write(s) == nil { // If it fails, the reader reconnects with its last id.
		written := time.Now()
		select {
		case <-s.wake:
		case <-beat:
			s.sentUsers = "" // so that next resends it
		case <-req.Context().Done():
			return
		}
		time.Sleep(pause - time.Since(written)) // so that the messages of a burst share a flush
	}
}

// write writes what next returns for s, until there is no more. It fails if the reader has gone or
// needs more than writeTimeout for ten events. A larger buffer than net/http's would save system
// calls, but a stalled reader would keep it.
func (r *room) write(s *stream) error {
	controller := http.NewResponseController(s.w)
	for {
		controller.SetWriteDeadline(time.Now().Add(writeTimeout))
		for range 10 { // A deadline for each would cost half as much as writing.
			event := r.next(s)
			if event == "" {
				return controller.Flush()
			}
			io.WriteString(s.w, event) // Flush reports the first error.
		}
	}
}

// next returns the next event for s, or "" if there is none, and moves s past it.
//
// Every event has the place of s as its id, because Firefox forgets the last id at an event that
// has none. Every event has JSON data, because many clients parse all data as JSON.
func (r *room) next(s *stream) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	start := r.lastID - int64(len(r.log)) // the place before the oldest message in the log
	switch {
	case s.sentUsers != r.users: // First, so that no backlog delays it; a new stream has sent none.
		s.sentUsers = r.users
		retry := 1000 + rand.IntN(1000) // ms; random, so that not all readers reconnect at once
		return fmt.Sprintf("event: users\ndata: %s\nid: %d\nretry: %d\n\n",
			s.sentUsers, s.lastID, retry)
	case s.lastID < start || s.lastID > r.lastID: // The place is too old, or unknown.
		s.lastID = start
		return fmt.Sprintf("event: missed\ndata: {}\nid: %d\n\n", s.lastID)
	case s.lastID < r.lastID:
		m := r.log[s.lastID-start]
		s.lastID = m.ID
		return m.event
	}
	return ""
}

// PART TWO: WHAT A PUBLIC CHAT NEEDS

// Who is here. Telling N readers about each of N arrivals would take N*N events, so the list is
// made once a second. Each list replaces the last, so a slow reader can skip some.

const maxListed = 100              // names in one event
const returnTime = 3 * time.Second // how long a name outlives its stream

// updateUsers keeps r.users up to date until ctx is done. A name outlives its stream by
// returnTime, because someone who reloads the page has not left.
func (r *room) updateUsers(ctx context.Context) {
	tick := time.Tick(time.Second)
	for {
		now := time.Now()
		r.mu.Lock()
		for s := range r.streams {
			r.lastSeen[s.name] = now
		}
		delete(r.lastSeen, "") // A stream without a name is not listed.
		maps.DeleteFunc(r.lastSeen, func(_ string, seen time.Time) bool {
			return now.Sub(seen) > returnTime
		})
		names := slices.Sorted(maps.Keys(r.lastSeen))
		listed := append([]string{}, names[:min(len(names), maxListed)]...) // not nil, for JSON
		data, _ := json.Marshal(map[string]any{"count": len(names), "names": listed})
		if r.users != string(data) {
			r.users = string(data)
			r.wakeAll()
		}
		r.mu.Unlock()
		select {
		case <-tick:
		case <-ctx.Done():
			return
		}
	}
}

// Input and its limits. Without them, one request could use up all memory, and a name of a
// thousand lines would fill everyone's page. Nothing limits the rate of posts, because behind a
// proxy, only the proxy knows who sends them.

const maxName = 50         // characters; index.html repeats this number
const maxMessage = 2000    // characters
const maxBody = 64 << 10   // bytes; the longest message, 2,000 emoji, takes 24,000 in a form
const maxHeader = 16 << 10 // bytes

// readPost returns the name and text of a post. If ok is false, it has sent a refusal.
func readPost(w http.ResponseWriter, req *http.Request, kind string) (name, text string, ok bool) {
	refuse := func(status int, format string, args ...any) (string, string, bool) {
		http.Error(w, fmt.Sprintf(format, args...), status)
		return "", "", false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if kind != formType && kind != jsonType {
		return refuse(http.StatusUnsupportedMediaType, "Send a URL-encoded form or JSON.")
	}
	if errors.As(err, new(*http.MaxBytesError)) {
		return refuse(http.StatusRequestEntityTooLarge, "A post is limited to %d bytes.", maxBody)
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "The post is incomplete.")
	}
	var post struct{ Name, Message string }
	if kind == formType {
		form, err := url.ParseQuery(string(body)) // req.FormValue would ignore this error.
		if err != nil {
			return refuse(http.StatusBadRequest, "The form is malformed.")
		}
		post.Name, post.Message = form.Get("name"), form.Get("message")
	} else if json.Unmarshal(body, &post) != nil {
		return refuse(http.StatusBadRequest, "Send JSON whose name and message are strings.")
	}
	text = cleanText(post.Message)
	if text == "" {
		return refuse(http.StatusBadRequest, "The message is blank.")
	}
	if len([]rune(text)) > maxMessage {
		return refuse(http.StatusRequestEntityTooLarge,
			"A message is limited to %d characters.", maxMessage)
	}
	return cmp.Or(cleanName(post.Name), "guest"), text, true
}

// lineEnds turns all line endings into LF. JSON does not escape U+0085, at which some clients end
// a line, so it would cut an event in two.
var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n")

// cleanText returns s as valid UTF-8 with LF line endings and no surrounding white space. It
// returns a copy, because a part of s would keep all of s in memory.
func cleanText(s string) string {
	return strings.Clone(strings.TrimSpace(lineEnds.Replace(strings.ToValidUTF8(s, "\uFFFD"))))
}

// cleanName returns s as one line of at most maxName characters. Anyone may use any name.
func cleanName(s string) string {
	name := []rune(strings.Join(strings.Fields(s), " "))
	return strings.TrimSpace(string(name[:min(len(name), maxName)]))
}

// Other origins. Without this, any page could post through its visitors' browsers (CSRF) or open
// streams that add names to the list. With -origin, the pages of one other origin may read and post
// as ours does (CORS). CSP blocks scripts that are injected into our page.

// handler returns the handler for all requests. A non-empty origin is the value of -origin, written
// as browsers send it: in lower case and without a default port.
func (r *room) handler(origin string) (http.Handler, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", r.page)
	mux.HandleFunc("POST /message", r.post)
	mux.HandleFunc("GET /events", r.events)
	protection := http.NewCrossOriginProtection()
	if origin != "" {
		if err := protection.AddTrustedOrigin(origin); err != nil {
			return nil, err
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if origin != "" {
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Allow-Headers", "Content-Type, Last-Event-ID")
			if req.Method == http.MethodOptions {
				return // Browsers send this preflight before a cross-origin JSON post.
			}
		}
		checked := *req // a copy, because mux must see the real method
		if req.URL.Path == "/events" {
			// Check ignores Sec-Fetch-Site and Origin in a GET, but this GET adds a name.
			checked.Method = http.MethodPost
		}
		if protection.Check(&checked) != nil {
			http.Error(w, "A page from another origin may not do this.", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, req)
	}), nil
}

// protectPage sets the page's security headers and returns the nonce that every script and style
// must have.
func protectPage(w http.ResponseWriter) (nonce string) {
	nonce = cryptorand.Text()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", fmt.Sprintf("default-src 'none'; "+
		"script-src 'nonce-%s'; style-src 'nonce-%s'; connect-src 'self'; img-src data:; "+
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'", nonce, nonce))
	return nonce
}

// Starting and stopping. Without this, an unfinished request would hold its connection forever,
// and ^C would cut off posts, or wait forever for streams to end.

const readTimeout = 15 * time.Second    // for a request to arrive
const idleTimeout = 3 * time.Minute     // until the next request; most proxies close sooner
const shutdownTimeout = 3 * time.Second // for requests in progress to finish

//go:embed index.html
var indexHTML string // embedded, so that the program runs anywhere
var index = template.Must(template.New("index.html").Parse(indexHTML))

func main() {
	addr := flag.String("addr", "localhost:3000", "`address` to listen on")
	origin := flag.String("origin", "", "another `origin` whose pages may read and post")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second ^C ends the process at once
	handler, err := newRoom(ctx).handler(*origin)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	if net.ParseIP(host).IsUnspecified() {
		host = "localhost" // Firefox refuses to open addresses such as [::].
	}
	log.Print("The chat is at http://", net.JoinHostPort(host, port))
	if err := serve(ctx, listener, handler); err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until ctx is done, then ends the streams and lets other requests finish.
// TLS and HTTP/2 are left to a proxy.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:        handler,
		ReadTimeout:    readTimeout,  // does not limit a stream, whose request has arrived
		WriteTimeout:   writeTimeout, // includes reading the body; a stream extends it
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader - 4096, // net/http accepts 4,096 more.
		// Every request's context derives from ctx, so the streams end with it.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	context.AfterFunc(ctx, func() { listener.Close() }) // This ends Serve.
	err := server.Serve(listener)
	if ctx.Err() == nil {
		return err
	}
	timeout, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	server.Shutdown(timeout)
	return server.Close() // This cuts off the requests that have not finished.
}
