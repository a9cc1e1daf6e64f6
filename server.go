// Ssechat is a group chat over Server-Sent Events (HTML standard §9.2).
//
//	go run server.go
//
// Then open http://localhost:3000 in two browser tabs.
//
// A room keeps one log of messages. POST /message appends to it. GET /events is a stream, a
// response that does not end: its handler writes what the log holds after the last message that
// it wrote, and then waits for more. A reader who is new, slow, or back after a break is simply
// at a different place in the log.
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
	"os"
	"os/signal"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

// PART ONE: THE CHAT

const historySize = 10_000         // messages that a reader can fall behind without losing any
const latestSize = 200             // messages on the page, and for a new reader
const heartbeat = 15 * time.Second // proxies and phones close connections silent for longer

// A room is a chat: a log of messages, and the set of streams that follow it.
type room struct {
	mu      sync.Mutex // guards this group of fields; never held while writing to a client
	log     messageLog
	streams map[*stream]struct{}
	users   string               // who is here, as JSON
	left    map[string]time.Time // names of streams that ended a moment ago, and when

	waking, announcing throttle // limit how often wake and announce run
}

// A stream is an open response to GET /events. Only its handler may use w, and only until it
// returns: net/http would panic after that.
type stream struct {
	w      http.ResponseWriter
	wake   chan struct{} // has room for one value, which says that there may be more to write
	name   string        // empty for a reader who is not listed
	lastID int64         // its place in the log: the id of the last message that it wrote
	users  string        // the list of users that it wrote last
}

// A messageLog holds the latest messages, oldest first, after an entry that only marks the place
// before them, such as the last message that was dropped. Callers hold the room's lock.
type messageLog []message

// A message is an entry in the log.
type message struct {
	ID    int64     `json:"-"` // its time in microseconds, so that a restart repeats no id
	Name  string    `json:"name"`
	Text  string    `json:"message"`
	Time  time.Time `json:"time"`
	batch *batch    // holds its event in memory, next to others; see "Slow readers and bursts"
	start int       // where its event begins in the batch
}

// page answers with the latest messages, and the id after which the page's script subscribes.
func (r *room) page(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	latest := r.log.latest(latestSize)
	r.mu.Unlock()
	after := latest[len(latest)-1].ID
	data := map[string]any{"Messages": latest[1:], "After": after, "Nonce": protectPage(w)}
	index.Execute(w, data) // An error means that the visitor has gone.
}

// post publishes a message. It answers a form with a redirect to the page, which shows the
// message even without JavaScript, and which can be reloaded without posting again.
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

// publish appends a message to the log and wakes the streams.
func (r *room) publish(name, text string) message {
	r.mu.Lock()
	m := r.log.add(name, text)
	r.mu.Unlock()
	r.waking.do(r.wake)
	return m
}

// wake tells every stream that there is something to write. It does not hold the lock meanwhile,
// because each stream that wakes up needs it at once. It returns how long to rest (see throttle).
func (r *room) wake() (rest time.Duration) {
	r.mu.Lock()
	streams := slices.Collect(maps.Keys(r.streams))
	r.mu.Unlock()
	for _, s := range streams {
		select {
		case s.wake <- struct{}{}:
		default: // It has been told, and has not looked yet.
		}
	}
	return restPerStream * time.Duration(len(streams))
}

// events serves a stream: it writes what comes after the stream's place in the log, flushes it,
// and waits for more. History, live messages, and catching up are all this one loop.
func (r *room) events(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	s, ok := newStream(w, req)
	if !ok {
		return
	}
	r.subscribe(s)
	defer r.unsubscribe(s)
	// These lines begin the first event, which is users. Retry is how many milliseconds the client
	// waits before it reconnects: at random, so that a thousand clients do not come back at once.
	fmt.Fprintf(w, "retry: %d\nid: %d\n", 1000+rand.IntN(1001), s.lastID)
	beat := time.Tick(heartbeat)
	for {
		events := r.next(s)
		if events == nil {
			select {
			case <-s.wake:
				continue
			case <-beat:
				events = []byte(":\n") // a comment; it has no blank line, which would end an event
			case <-req.Context().Done():
				return // The client has gone, or the server is being stopped.
			}
		}
		if s.write(events) != nil {
			return
		}
	}
}

// next returns what s is to write, and moves s past it. It returns nil if s is up to date.
func (r *room) next(s *stream) (events []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.users != r.users {
		s.users = r.users
		return fmt.Appendf(nil, "event: users\ndata: %s\nid: %d\n\n", s.users, s.lastID)
	}
	events, s.lastID = r.log.after(s.lastID)
	return events
}

// format returns m as an event. A blank line ends it (HTML standard §9.2.5); JSON is one line, so
// nobody can type that end. The id comes last, as some clients take it for the end of the event.
func (m message) format() []byte {
	data, _ := json.Marshal(m) // Strings and times can always be encoded.
	return fmt.Appendf(nil, "data: %s\nid: %d\n\n", data, m.ID)
}

// add appends a message. Its id is the time, but ids increase even if the clock does not.
func (l *messageLog) add(name, text string) message {
	last := (*l)[len(*l)-1]
	id := max(last.ID+1, time.Now().UnixMicro())
	m := message{ID: id, Name: name, Text: text, Time: time.UnixMicro(id).UTC()}
	m.batch, m.start = last.batch.add(m.format(), id)
	*l = append(*l, m).latest(historySize)
	return m
}

// latest returns the latest n messages, after the entry that marks the place before them.
func (l messageLog) latest(n int) messageLog { return l[max(0, len(l)-1-n):] }

// after returns events that follow an id, as many as lie together in a batch, and the id of the
// last. If messages after the given id may be missing, it returns an event that says so instead.
func (l messageLog) after(id int64) (events []byte, lastID int64) {
	if place := l.resume(id); place != id {
		return fmt.Appendf(nil, "event: missed\ndata:\nid: %d\n\n", place), place
	}
	next := sort.Search(len(l), func(i int) bool { return l[i].ID > id })
	if next == len(l) {
		return nil, id
	}
	return l[next].batch.events[l[next].start:], l[next].batch.lastID
}

// PART TWO: WHAT THE CHAT NEEDS AMONG STRANGERS (each section can be skipped)

// Input and its limits. Without these, one request could fill the memory, a broken form would
// pass as a blank message, and a name of a thousand lines would fill everybody's page.

const maxName = 50       // characters
const maxMessage = 2000  // characters
const maxBody = 64 << 10 // bytes; the longest message, 2,000 emoji, takes 24,000 in a form
const formType = "application/x-www-form-urlencoded"
const jsonType = "application/json"

// refuse answers a request that is not accepted with one sentence for its author. It returns
// false for its caller to return.
func refuse(w http.ResponseWriter, status int, format string, values ...any) bool {
	http.Error(w, fmt.Sprintf(format, values...), status)
	return false
}

// readPost returns the name and the text in a post, or refuses it.
func readPost(w http.ResponseWriter, req *http.Request, kind string) (name, text string, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	var post struct{ Name, Message string }
	if kind == jsonType && err == nil {
		err = json.Unmarshal(body, &post)
	}
	if kind == formType && err == nil {
		var form url.Values
		form, err = url.ParseQuery(string(body)) // req.FormValue would hide this error.
		post.Name, post.Message = form.Get("name"), form.Get("message")
	}
	name, text = cmp.Or(clean(post.Name), "guest"), clean(post.Message)
	switch {
	case kind != formType && kind != jsonType:
		ok = refuse(w, http.StatusUnsupportedMediaType, "A message is sent as a form or as JSON.")
	case errors.As(err, new(*http.MaxBytesError)):
		ok = refuse(w, http.StatusRequestEntityTooLarge, "A post has at most %d bytes.", maxBody)
	case errors.As(err, new(*json.UnmarshalTypeError)):
		ok = refuse(w, http.StatusBadRequest, "The name and the message must be JSON strings.")
	case err != nil:
		ok = refuse(w, http.StatusBadRequest, "The form or JSON is malformed or incomplete.")
	case utf8.RuneCountInString(text) > maxMessage:
		ok = refuse(w, http.StatusRequestEntityTooLarge,
			"A message has at most %d characters.", maxMessage)
	case text == "":
		ok = refuse(w, http.StatusBadRequest, "The message is blank.")
	case !isName(name):
		ok = refuse(w, http.StatusBadRequest, badName, maxName)
	default:
		ok = true
	}
	return name, text, ok
}

// newStream returns the stream that a request asks for, or answers the request. An id that cannot
// be read is 0, as for a new reader, because after an error EventSource would give up for good.
func newStream(w http.ResponseWriter, req *http.Request) (s *stream, ok bool) {
	if req.ContentLength != 0 { // With a body, net/http would not notice when the reader leaves.
		return nil, refuse(w, http.StatusBadRequest, "A request for a stream has no body.")
	}
	query := req.URL.Query()
	name := clean(query.Get("name"))
	if !isName(name) {
		return nil, refuse(w, http.StatusBadRequest, badName, maxName)
	}
	id, _ := strconv.ParseInt(cmp.Or(req.Header.Get("Last-Event-ID"), query.Get("after")), 10, 64)
	w.Header().Set("Cache-Control", "no-cache, no-transform") // Compression would hold events back,
	w.Header().Set("X-Accel-Buffering", "no")                 // and so would nginx.
	if req.Method == http.MethodHead {
		return nil, false // The headers are the answer. ServeMux routes HEAD like GET.
	}
	s = &stream{w: w, wake: make(chan struct{}, 1), name: name, lastID: max(0, id)}
	return s, true
}

const badName = "A name is one line of at most %d characters."

func isName(s string) bool {
	hasLineEnd := strings.ContainsAny(s, "\n\v\f\u0085\u2028\u2029")
	return !hasLineEnd && utf8.RuneCountInString(s) <= maxName
}

// clean returns s as valid UTF-8, with LF between its lines, and without space around it.
func clean(s string) string {
	return strings.TrimSpace(lineEnds.Replace(strings.ToValidUTF8(s, "\uFFFD")))
}

var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// Who is here. Without this, readers would not know to whom they are talking. If N arrivals were
// each announced to N readers, that would be N² events, so changes are announced together. As an
// event has the whole list, it does no harm to miss one.

const maxListed = 100              // names in an event
const announceRest = time.Second   // between two announcements
const returnTime = 3 * time.Second // for a reader to come back: the longest retry and a bit more

// subscribe adds s to the set. This comes before the first next, so no message falls in between.
func (r *room) subscribe(s *stream) {
	r.mu.Lock()
	r.streams[s] = struct{}{}
	if s.lastID == 0 {
		s.lastID = r.log.latest(latestSize)[0].ID
	}
	r.mu.Unlock()
	if s.name != "" {
		r.announcing.do(r.announce)
	}
}

// unsubscribe takes s out of the set. Its name stays until its reader has had time to come back,
// because somebody who reloads the page has not left.
func (r *room) unsubscribe(s *stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, s)
	if s.name != "" {
		r.left[s.name] = time.Now()
		time.AfterFunc(returnTime, func() { r.announcing.do(r.announce) })
	}
}

// announce brings users up to date, and wakes the streams to write it.
func (r *room) announce() (rest time.Duration) {
	r.mu.Lock()
	isOver := func(_ string, end time.Time) bool { return time.Since(end) >= returnTime }
	maps.DeleteFunc(r.left, isOver)
	names := slices.AppendSeq([]string{}, maps.Keys(r.left)) // A nil slice would become null.
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
	r.waking.do(r.wake)
	return announceRest
}

// Other sites. Without this, a page on any site could post in its visitors' names (CSRF), or add
// names by loading streams in an iframe. With -origin, one other site may do what our page does
// (CORS). And if markup ever got into the page, its scripts would not run (CSP).

var originPattern = regexp.MustCompile(`^(https?)://(?:[a-z0-9_.-]*[a-z_-][a-z0-9_-]*\.?|` +
	`\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]+\])(?::([1-9]\d*))?$`)

// isOrigin reports whether s is an origin as browsers write it (HTML standard §7.1.1).
func isOrigin(s string) bool {
	parts := originPattern.FindStringSubmatch(s)
	if parts == nil {
		return false
	}
	scheme, port := parts[1], parts[2]
	_, err := strconv.ParseUint(cmp.Or(port, "1"), 10, 16)
	return err == nil && scheme+port != "http80" && scheme+port != "https443"
}

// routes returns the handler of the requests that belong to a room.
func (r *room) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", r.page)
	mux.HandleFunc("POST /message", r.post)
	mux.HandleFunc("GET /events", r.events)
	return mux
}

// handler returns the handler of all requests. The error says that origin is not an origin.
func (r *room) handler(origin string) (http.Handler, error) {
	routes := r.routes()
	protection := http.NewCrossOriginProtection()
	if origin != "" {
		if err := protection.AddTrustedOrigin(origin); err != nil || !isOrigin(origin) {
			return nil, fmt.Errorf("-origin %q is not what browsers send, such as "+
				"https://app.example (lower case, without a path or a default port)", origin)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if origin != "" {
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Allow-Headers", "Content-Type, Last-Event-ID")
			if req.Method == http.MethodOptions {
				return // Browsers ask with this before they post JSON to another origin.
			}
		}
		check := *req
		if req.URL.Path == "/events" {
			check.Method = http.MethodPost // A GET passes, but a stream changes who is here.
		}
		if protection.Check(&check) != nil {
			refuse(w, http.StatusForbidden, "A page from another origin may not do this.")
			return
		}
		routes.ServeHTTP(w, req)
	}), nil
}

// protectPage sets the headers of the page, and returns the nonce that marks the page's own
// script and style.
func protectPage(w http.ResponseWriter) (nonce string) {
	nonce = cryptorand.Text()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", fmt.Sprintf("default-src 'none'; "+
		"script-src 'nonce-%s'; style-src 'nonce-%s'; connect-src 'self'; img-src data:; "+
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'", nonce, nonce))
	return nonce
}

// Slow readers and bursts. Without this, a reader who accepts nothing would keep its stream
// forever, and a burst would cost a system call for each message and reader.

const writeTimeout = 30 * time.Second       // for a client to accept what is written
const batchSize = 64 << 10                  // bytes; a stalled reader keeps one batch in memory
const restPerStream = 30 * time.Microsecond // between two wake-ups, for each open stream

// write sends events, unless the client has gone or accepts nothing for writeTimeout.
func (s *stream) write(events []byte) error {
	response := http.NewResponseController(s.w)
	response.SetWriteDeadline(time.Now().Add(writeTimeout))
	s.w.Write(events)
	return response.Flush() // This also reports the errors of Write, which is buffered.
}

// resume returns the place at which a reader with this last id goes on. It is the id itself, unless
// messages after it may be missing. A reader who is cut off before the event that says so comes
// back with its old id, and is told again.
func (l messageLog) resume(id int64) int64 {
	switch {
	case id < l[0].ID: // Messages after it are no longer kept.
		return l[0].ID
	case id > l[len(l)-1].ID: // The clock has been set back since then.
		return l.latest(latestSize)[0].ID
	}
	return id
}

// A batch holds consecutive events back to back, so that one Write sends many. Its array never
// moves and its bytes never change, so streams can read them without the lock.
type batch struct {
	events []byte
	lastID int64
}

// add puts an event at the end of b or, if b is full, into a new batch, and returns where it is.
func (b *batch) add(event []byte, id int64) (in *batch, start int) {
	if len(b.events)+len(event) > cap(b.events) {
		b = &batch{events: make([]byte, 0, batchSize)}
	}
	start = len(b.events)
	b.events = append(b.events, event...)
	b.lastID = id
	return b, start
}

// A throttle lets a function rest between two calls. Without it, a burst runs at an eighth of the
// speed, because each message is then a write of its own.
type throttle struct {
	mu      sync.Mutex // also held during calls
	next    time.Time  // the earliest time for the next call
	pending bool       // whether that call is due
}

// do calls f at once, or as soon as it has rested; calls in between are merged into that one. f
// returns how long it is to rest.
func (t *throttle) do(f func() (rest time.Duration)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending {
		return
	}
	if wait := time.Until(t.next); wait > 0 {
		t.pending = true
		time.AfterFunc(wait, func() {
			t.mu.Lock()
			t.pending = false
			t.mu.Unlock()
			t.do(f)
		})
		return
	}
	t.next = time.Now().Add(f())
}

// How the server starts and ends. Without this, half a request would keep its connection
// forever, and ^C would break off posts, or wait forever for the streams to end.

const readTimeout = 15 * time.Second    // for a request to arrive, and for an idle connection
const shutdownTimeout = 3 * time.Second // for requests that are in flight

//go:embed index.html
var indexHTML string // It is part of the binary, which therefore runs in any folder.
var index = template.Must(template.New("index.html").Parse(indexHTML))

// newRoom returns an empty room.
func newRoom() *room {
	r := &room{
		log:     messageLog{{ID: time.Now().UnixMicro(), batch: &batch{}}},
		streams: make(map[*stream]struct{}),
		left:    make(map[string]time.Time),
	}
	r.announce()
	return r
}

func main() {
	addr := flag.String("addr", "localhost:3000", "`address` to listen on")
	origin := flag.String("origin", "", "other `origin` whose pages may read and post")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("unexpected argument %q", flag.Arg(0))
	}
	handler, err := newRoom().handler(*origin)
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // After the first ^C, a second one ends the process at once.
	if err := serve(ctx, listener, handler); err != nil {
		log.Fatal(err)
	}
}

// serve answers requests until ctx ends. Then it ends the streams and waits for other requests.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:      handler,
		ReadTimeout:  readTimeout,  // of a request; it does not apply while a stream is open
		WriteTimeout: writeTimeout, // of a whole response; a stream extends it with each write
		// The context of every request ends with ctx, which ends the streams.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		stopped <- server.Shutdown(ctx)
	})
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	if <-stopped != nil {
		server.Close() // Requests that are still in flight are cut off.
	}
	return nil
}
