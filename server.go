// Ssechat is a group chat over Server-Sent Events (HTML standard, section 9.2). Start it with
// go run server.go, and open http://localhost:3000 in two tabs.
//
// The way of a message: post checks it; publish gives it an id, encodes it once and appends it
// to the log; wake closes the channel that all streams wait on; and events, one for each stream,
// writes what comes after its place in the log. Resuming and catching up are that, too.
package main

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"html/template"
	"io"
	"log"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	maxName       = 50                    // characters
	maxMessage    = 2000                  // characters
	maxBody       = 64 << 10              // bytes; in a form 2,000 emoji are 24,000, the rest is slack
	kept          = 10_000                // messages: how far a reader may fall behind and lose nothing
	spare         = 1000                  // messages beyond kept, so that the oldest is not gone before a newcomer has it
	segmentSize   = 64 << 10              // bytes of events written at once, and held by a reader who stalls
	shown         = 200                   // messages in the page's HTML
	listed        = 100                   // names in a users event
	restPerStream = 15 * time.Microsecond // for each stream, between wake-ups: in a burst many messages share a write
	gather        = time.Second           // from a change to the users event: many changes are one event
	heartbeat     = 15 * time.Second      // for all streams at once; proxies and phones close what is silent for longer
	takeTimeout   = 30 * time.Second      // for a client to take something; streams renew it
	sendTimeout   = 15 * time.Second      // for a request to arrive; as long may a connection be idle between two
	stopTimeout   = 3 * time.Second       // for requests under way when the server stops
	formType      = "application/x-www-form-urlencoded"
	jsonType      = "application/json"
)

//go:embed index.html
var indexHTML string
var index = template.Must(template.New("index.html").Parse(indexHTML))

func main() {
	addr := flag.String("addr", "localhost:3000", "`address` to listen on")
	origin := flag.String("origin", "", "other `origin` whose pages may read and post, such as https://app.example")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so the second ^C is not caught, and ends the process at once, unless a script ran it with &
	listener, err := net.Listen("tcp", *addr)
	if err == nil {
		err = run(ctx, listener, *origin)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run serves a new room until ctx ends. Streams that wait end with it; what is under way gets stopTimeout.
func run(ctx context.Context, listener net.Listener, origin string) error {
	handler, err := newRoom().routes(origin)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:     handler,
		ReadTimeout: sendTimeout, // of a request, not of a stream; for writing, routes sets a deadline
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	log.Printf("The chat is at http://%s", listener.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done(): // every stream's context ends with it; Shutdown alone would wait for them
	}
	time.AfterFunc(stopTimeout, func() { server.Close() })
	return server.Shutdown(context.Background())
}

// A room is an ordered log of messages, and those who follow it.
type room struct {
	mu        sync.Mutex                       // guards all of this; never held while writing to a client
	log       []message                        // oldest first; the first entry stands for all that is gone
	streams   map[http.ResponseWriter]struct{} // open or just closed. Only their number is used, by wake: a count would do, but what is built on this soon has to know which
	names     []string                         // of the streams that have one, sorted, with repeats
	users     string                           // the users event with them
	announced int                              // the latest announcement's number; streams behind it write users, or a comment if unchanged
	announcer *time.Timer                      // runs announce
	changed   chan struct{}                    // closed, and replaced, when streams have something to write
	woken     time.Time                        // when it was closed last
	waking    bool                             // it is due to be closed
	gathering bool                             // announcer is set to gather, not to the heartbeat
}

// A message is an entry of the log.
type message struct {
	ID      int64     `json:"-"` // Time in microseconds: no restart repeats one, unless the clock was set back
	Name    string    `json:"name"`
	Text    string    `json:"message"`
	Time    time.Time `json:"time"`
	segment *segment  // holds its event
	start   int       // at this offset
}

// A segment has events back to back, so that many are one Write.
type segment struct {
	events []byte // never outgrows its capacity: bytes do not move, and are read without the lock
	last   int64  // id of the last message in it
}

// A stream is an open response to GET /events. Only its handler writes to it, or a goroutine that the
// handler waits for: after the handler net/http would panic, or let the bytes into another response.
type stream struct {
	name      string // or empty, and listed nowhere
	place     int64  // id of the last message written
	users     string // the users event written last
	announced int    // the room's number at that time; 0 at the start
}

// newRoom returns a room whose log has one entry, for all said before the server started.
func newRoom() *room {
	r := &room{
		log:     []message{{ID: time.Now().UnixMicro(), segment: &segment{}}},
		streams: make(map[http.ResponseWriter]struct{}),
		users:   formatUsers(nil),
		changed: make(chan struct{}),
	}
	r.announce() // starts the heartbeat, and counts to 1: next takes 0 for a new stream
	return r
}

// routes returns the handler of all requests. Pages from origin, if any, may read and post.
func (r *room) routes(origin string) (http.Handler, error) {
	guard := http.NewCrossOriginProtection() // 403: no other site may post by its visitors' hands; curl passes
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", r.page)
	mux.Handle("POST /message", guard.Handler(http.HandlerFunc(r.post)))
	mux.HandleFunc("GET /events", r.events)
	if origin != "" {
		if err := guard.AddTrustedOrigin(origin); err != nil {
			return nil, err
		}
		mux.HandleFunc("OPTIONS /message", func(http.ResponseWriter, *http.Request) {}) // asked before JSON is posted
		mux.HandleFunc("OPTIONS /events", func(http.ResponseWriter, *http.Request) {})  // and before fetch sends a Last-Event-ID
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(takeTimeout))
		if origin != "" {
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Allow-Headers", "Content-Type, Last-Event-ID")
		}
		mux.ServeHTTP(w, req)
	}), nil
}

// page answers with the latest messages, and the id after which its script is to go on.
func (r *room) page(w http.ResponseWriter, _ *http.Request) {
	messages, after := r.latest()
	nonce := cryptorand.Text() // allows the page's own script and style, and no others
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", fmt.Sprintf("default-src 'none'; connect-src 'self'; img-src data:; script-src 'nonce-%s'; "+
		"style-src 'nonce-%[1]s'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'", nonce))
	index.Execute(w, map[string]any{"Nonce": nonce, "After": after, "Messages": messages}) // fails if the visitor left
}

// post publishes a message, or says why not. After a form it redirects: a reload posts nothing.
func (r *room) post(w http.ResponseWriter, req *http.Request) {
	kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody)) // req.FormValue would hide err
	_, tooLarge := err.(*http.MaxBytesError)
	name, text, malformed := parsePost(kind, body)
	switch {
	case kind != formType && kind != jsonType:
		http.Error(w, "A message comes as a form or as JSON.", http.StatusUnsupportedMediaType)
	case tooLarge || utf8.RuneCountInString(text) > maxMessage:
		http.Error(w, fmt.Sprintf("A message has at most %d characters.", maxMessage), http.StatusRequestEntityTooLarge)
	case err != nil || malformed != nil:
		http.Error(w, "The form or JSON is incomplete or malformed.", http.StatusBadRequest)
	case text == "":
		http.Error(w, "The message is blank.", http.StatusBadRequest)
	case !isName(name):
		http.Error(w, fmt.Sprintf("A name is one line of at most %d characters.", maxName), http.StatusBadRequest)
	case kind == jsonType:
		w.Header().Set("Content-Type", jsonType)
		json.NewEncoder(w).Encode(r.publish(name, text))
	default:
		r.publish(name, text)
		http.Redirect(w, req, "/", http.StatusFound)
	}
}

// events is a stream: it writes what comes after its place, and waits until there is more.
func (r *room) events(w http.ResponseWriter, req *http.Request) {
	query := req.URL.Query()
	s := &stream{name: clean(query.Get("name"))}
	if !isName(s.name) || req.ContentLength != 0 { // after a large body net/http does not notice that a reader leaves
		http.Error(w, fmt.Sprintf("A stream has no body, and its name is one line of at most %d characters.", maxName), http.StatusBadRequest)
		return
	}
	// An unreadable id is none: after a 400 an EventSource would give up for good.
	s.place, _ = strconv.ParseInt(cmp.Or(req.Header.Get("Last-Event-ID"), query.Get("after")), 10, 64)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("X-Accel-Buffering", "no")       // nginx would wait until it has 4 KB
	w.Header().Set("Transfer-Encoding", "identity") // is not sent: it has net/http send no chunks but close at the end, for a 20th less CPU
	if req.Method == http.MethodHead {              // which ServeMux takes for a GET
		return
	}
	response := http.NewResponseController(w)
	var start sync.WaitGroup
	start.Go(func() { // the first Flush, with the headers, grows a stack to 8 KB: the handler's would stay so large
		r.register(w, s.name, true)
		response.Flush()
	})
	start.Wait()
	defer time.AfterFunc(gather/2, func() { r.register(w, s.name, false) }) // w is but a key by then; a reload is back, and nobody left
	for done, renewed := req.Context().Done(), time.Now(); ; {
		notes, events, changed := r.next(s)
		if notes == "" && events == nil {
			select {
			case <-changed:
			case <-done:
				return
			}
			continue
		}
		if time.Since(renewed) > time.Second { // each time would cost a tenth of the CPU, or more
			renewed = time.Now()
			response.SetWriteDeadline(renewed.Add(takeTimeout))
		}
		if notes != "" {
			io.WriteString(w, notes)
		}
		w.Write(events)
		if response.Flush() != nil { // small writes are buffered and do not fail
			return
		}
	}
}

// register puts a stream into the set, or takes it out, and has everybody told who is here.
func (r *room) register(w http.ResponseWriter, name string, here bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, w)
	if here {
		r.streams[w] = struct{}{}
	}
	if name == "" {
		return
	}
	i, _ := slices.BinarySearch(r.names, name)
	if here {
		r.names = slices.Insert(r.names, i, name)
	} else {
		r.names = slices.Delete(r.names, i, i+1)
	}
	r.users = formatUsers(r.names)
	if !r.gathering && r.announcer.Stop() { // if Stop fails, announce is about to run
		r.gathering = true
		r.announcer = time.AfterFunc(gather, r.announce)
	}
}

// announce has all streams write who is here or, if they know, a comment: the heartbeat.
func (r *room) announce() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gathering = false
	r.announced++
	r.wake()
	r.announcer = time.AfterFunc(heartbeat, r.announce)
}

// next returns what s is to write, and what is closed when there is more.
func (r *room) next(s *stream) (notes string, events []byte, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	earliest, newest := r.log[0].ID, r.log[len(r.log)-1].ID
	if s.announced == 0 { // its first call: it starts above the spare, which may be gone before its second
		earliest = r.log[max(0, len(r.log)-1-kept)].ID
		if s.place <= 0 || s.place > newest { // no id, or one from the future: it gets all that is kept
			s.place = earliest
		}
		// Without data no event, but an id to come back with, also for who has heard nothing yet.
		notes = fmt.Sprintf("retry: %d\nid: %d\n\n", 1000+rand.IntN(2001), s.place) // at random: not all come back at once
	}
	if s.place < earliest {
		s.place = earliest
		notes += fmt.Sprintf("id: %d\nevent: missed\ndata:\n\n", earliest) // the first block had the old id: who is cut off before this is told again
	}
	if s.place < newest {
		i, _ := slices.BinarySearchFunc(r.log, s.place+1, func(m message, id int64) int { return cmp.Compare(m.ID, id) })
		events = r.log[i].segment.events[r.log[i].start:] // to the segment's end; the next call goes on
		s.place = r.log[i].segment.last
	}
	if s.announced != r.announced {
		note := r.users
		if note == s.users {
			note = ":\n\n"
		}
		notes += note
		s.announced, s.users = r.announced, r.users
	}
	return notes, events, r.changed
}

// latest returns the messages that the page shows, and the id of the last one ever.
func (r *room) latest() (messages []message, id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log[max(1, len(r.log)-shown):]), r.log[len(r.log)-1].ID
}

// publish gives a message its id and time, appends it to the log, and has it written soon.
func (r *room) publish(name, text string) message {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.log[len(r.log)-1]
	now := time.UnixMicro(max(last.ID+1, time.Now().UnixMicro())).UTC() // clocks can be set back
	m := message{now.UnixMicro(), name, text, now, last.segment, len(last.segment.events)}
	event := formatMessage(m)
	if m.start+len(event) > cap(m.segment.events) {
		m.segment, m.start = &segment{events: make([]byte, 0, segmentSize)}, 0
	}
	m.segment.events = append(m.segment.events, event...)
	m.segment.last = m.ID
	r.log = append(r.log, m)
	r.log = r.log[max(0, len(r.log)-1-kept-spare):]
	r.wake()
	return m
}

// wake has all streams write what is new, once they have rested. The caller holds mu.
func (r *room) wake() {
	if !r.waking {
		r.waking = true
		go func(rest time.Duration) {
			time.Sleep(rest) // not at all, if there is none left
			r.mu.Lock()
			defer close(r.changed) // the old one, after unlocking, as all who wake want mu
			r.changed = make(chan struct{})
			r.woken = time.Now()
			r.waking = false
			r.mu.Unlock()
		}(time.Duration(len(r.streams))*restPerStream - time.Since(r.woken))
	}
}

// parsePost returns the name and the text in the body of a post, ready to be checked.
func parsePost(kind string, body []byte) (name, text string, err error) {
	var m struct{ Name, Message string }
	if kind == jsonType {
		err = json.Unmarshal(body, &m)
		return cmp.Or(clean(m.Name), "guest"), clean(m.Message), err
	}
	form, err := url.ParseQuery(string(body))
	return cmp.Or(clean(form.Get("name")), "guest"), clean(form.Get("message")), err
}

// isName reports whether s is one line and not too long.
func isName(s string) bool {
	return utf8.RuneCountInString(s) <= maxName && !strings.ContainsAny(s, "\n\v\f\u0085\u2028\u2029")
}

// clean returns s as valid UTF-8, with LF between its lines, and without blanks around it.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.TrimSpace(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s))
}

// formatMessage returns m as an event. JSON is one line: nobody can type the end of an event.
func formatMessage(m message) []byte {
	data, _ := json.Marshal(m) // cannot fail
	return fmt.Appendf(nil, "id: %d\ndata: %s\n\n", m.ID, data)
}

// formatUsers returns the event that says who is here, from the sorted names of the streams.
func formatUsers(sorted []string) string {
	names := slices.Compact(append([]string{}, sorted...)) // a name twice is one; nil would be null
	data, _ := json.Marshal(map[string]any{"count": len(names), "names": names[:min(len(names), listed)]})
	return fmt.Sprintf("event: users\ndata: %s\n\n", data)
}
