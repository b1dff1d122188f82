package search

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/rest"
)

// Listing is a page of events.
type Listing struct {
	Events []audit.Event `json:"events" doc:"newest first"`
	Next   string        `json:"next,omitempty" doc:"cursor of the next page; absent on the last"`
	Behind int64         `json:"behind,omitempty" doc:"events recorded but not yet searchable"`
}

// Entry is an event with its place in the log and what stands beside it.
type Entry struct {
	Event    audit.Event `json:"event"`
	Lane     int64       `json:"lane" doc:"the lane of the log that holds it"`
	SN       int64       `json:"sn" doc:"its number in the lane, from 1 without gaps"`
	Chain    string      `json:"chain" doc:"hex: SHA-256(chain before, lane, sn, leaf), lane and sn as 64-bit big-endian numbers, leaf = SHA-256(0x00, record)"`
	Record   string      `json:"record" doc:"base64: the exact bytes that are hashed (RFC 8785 JSON)"`
	Payloads []Payload   `json:"payloads,omitempty"`
}

// Payload is content beside an event.
type Payload struct {
	Name     string `json:"name" example:"arguments"`
	Size     int64  `json:"size" doc:"bytes of the whole before redaction"`
	Digest   string `json:"digest" doc:"hex: the commitment in the event"`
	Text     string `json:"text,omitempty" doc:"what is stored, when it is text"`
	Base64   string `json:"base64,omitempty" doc:"what is stored, when it is not"`
	Cut      bool   `json:"cut,omitempty" doc:"only the beginning is stored, or shown"`
	Level    string `json:"level,omitempty" doc:"how much is kept, if not redacted: full or digest"`
	Erased   bool   `json:"erased,omitempty" doc:"the content was erased or has expired; the commitment stands"`
	Withheld bool   `json:"withheld,omitempty" doc:"your role does not see contents"`
	Broken   bool   `json:"broken,omitempty" doc:"the content is there but is not what was written: verify the log"`
}

// RunListing is a run from its beginning.
type RunListing struct {
	Run    string  `json:"run"`
	Events []Entry `json:"events" doc:"oldest first"`
	Next   string  `json:"next,omitempty" doc:"cursor of the next page; absent on the last"`
}

// Verification is what verifying the log found.
type Verification struct {
	OK       bool      `json:"ok"`
	Events   int64     `json:"events" doc:"records checked"`
	Payloads int64     `json:"payloads" doc:"payloads checked against their commitments"`
	Erased   int64     `json:"erased" doc:"payloads erased on purpose or expired"`
	Unkept   int64     `json:"unkept" doc:"payloads of which only the commitment was kept (level digest)"`
	Lanes    int       `json:"lanes"`
	Millis   int64     `json:"millis" doc:"time it took"`
	Problems []Problem `json:"problems,omitempty" doc:"the first of each lane"`
}

// Problem is a place where the log is not what was written.
type Problem struct {
	Lane    int64  `json:"lane"`
	SN      int64  `json:"sn"`
	Event   string `json:"event,omitempty"`
	Message string `json:"message"`
}

type listRequest struct {
	Q      string `query:"q" maxLength:"4096" doc:"what to look for, such as: decision:deny tool:ledger/* since:2h \"iban changed\""`
	Limit  int    `query:"limit" minimum:"0" maximum:"1000" doc:"100 if empty"`
	Cursor string `query:"cursor" maxLength:"64" doc:"next of the page before"`
	Oldest bool   `query:"oldest" doc:"oldest first"`
}

type eventRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Bare bool   `query:"bare" doc:"without contents: nothing is revealed, and nothing recorded"`
}

type runRequest struct {
	Run    string `path:"run" maxLength:"256"`
	Limit  int    `query:"limit" minimum:"0" maximum:"1000" doc:"500 if empty"`
	Cursor string `query:"cursor" maxLength:"64" doc:"next of the page before"`
	Bare   bool   `query:"bare" doc:"without contents: nothing is revealed, and nothing recorded"`
}

type tailRequest struct {
	Q      string `query:"q" maxLength:"4096" doc:"as for events"`
	Last   int    `query:"last" minimum:"0" maximum:"1000" doc:"begin with this many events of the past"`
	Resume string `header:"Last-Event-ID" maxLength:"64" doc:"begin after this event"`
}

type rebuildRequest struct {
	Body *struct {
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

// Routes declares the log's operations.
func (s *Service) Routes(api *rest.API) {
	const path, tag = "/api/v1/log", "log"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/events", Summary: "Search the log", Tag: tag}, s.serveList)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/events/{id}", Summary: "Show an event with its payloads and its place in the log", Tag: tag}, s.serveEvent)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/runs/{run}", Summary: "Show a run from its beginning", Tag: tag}, s.serveRun)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/runs", Summary: "List runs", Tag: tag}, s.serveRuns)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/rate", Summary: "Count calls by the minute", Tag: tag}, s.serveRate)
	rest.HandleStream(api, rest.Op{Method: http.MethodGet, Path: path + "/tail", Summary: "Follow the log", Tag: tag}, "text/event-stream", s.serveTail)
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/verify", Summary: "Verify the log's chains and commitments", Tag: tag, Need: rest.Inspect}, s.serveVerify)
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/rebuild", Summary: "Build the search index again", Tag: tag, Need: rest.Write}, s.serveRebuild)
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/erase", Summary: "Erase the payloads of a subject, an agent or a run", Tag: tag, Need: rest.Govern}, s.serveErase)
	s.savedRoutes(api, path+"/searches", tag)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/holds", Summary: "List legal holds", Tag: tag}, s.serveHolds)
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/holds", Summary: "Place a legal hold", Tag: tag, Need: rest.Hold, Status: http.StatusCreated}, s.serveHold)
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/holds/{id}", Summary: "Release a legal hold", Tag: tag, Need: rest.Hold}, s.serveRelease)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path + "/retention", Summary: "Show how long payloads are kept", Tag: tag}, s.serveRetention)
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: path + "/retention", Summary: "Change how long payloads are kept", Tag: tag, Need: rest.Govern}, s.serveSetRetention)
}

// parse reads a query. Who may not see contents may not search them either:
// whether a word is found tells what is in there.
func (s *Service) parse(c rest.Caller, text string) (Query, error) {
	q, err := Parse(text, s.o.Now())
	if err == nil && q.HasText() {
		err = c.Refuse(rest.Inspect)
	}
	return q, err
}

// withoutContents takes away the payloads of agents that are not the caller's,
// if the caller may not see all. The commitments in the event stay.
func (s *Service) withoutContents(ctx context.Context, c rest.Caller, entries []Entry) error {
	if c.May(rest.Inspect) {
		return nil
	}
	mine := map[string]bool{}
	for i := range entries {
		agent := entries[i].Event.Agent
		if _, known := mine[agent]; !known && agent != "" && s.o.Owns != nil {
			owns, err := s.o.Owns(ctx, c.Name, "agent/"+agent)
			if err != nil && fault.KindOf(err) != fault.NotFound {
				return err
			}
			mine[agent] = owns && err == nil
		}
		if mine[agent] {
			continue
		}
		for j := range entries[i].Payloads {
			p := &entries[i].Payloads[j]
			p.Text, p.Base64, p.Withheld = "", "", true
		}
	}
	return nil
}

func (s *Service) serveList(ctx context.Context, c rest.Caller, r *listRequest) (*Listing, error) {
	q, err := s.parse(c, r.Q)
	if err != nil {
		return nil, err
	}
	if r.Cursor == "" {
		if err := s.Fresh(ctx); err != nil {
			return nil, err
		}
	}
	res, err := s.Find(ctx, q, Page{After: r.Cursor, Limit: r.Limit, Oldest: r.Oldest})
	if err != nil {
		return nil, err
	}
	out := Listing{Events: []audit.Event{}, Next: res.Next}
	for _, rec := range res.Records {
		out.Events = append(out.Events, rec.Event)
	}
	out.Behind, err = s.Behind(ctx)
	return &out, err
}

func (s *Service) serveEvent(ctx context.Context, c rest.Caller, r *eventRequest) (*Entry, error) {
	rec, err := s.log.Get(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	left := 2 * runBytes
	e := []Entry{entryOf(&rec, &left)}
	return &e[0], s.reveal(ctx, c, "event/"+r.ID, r.Bare, e)
}

// reveal takes away the contents that the caller does not see, and records
// that the rest was seen before it is.
func (s *Service) reveal(ctx context.Context, c rest.Caller, object string, bare bool, entries []Entry) error {
	if bare {
		for i := range entries {
			for j := range entries[i].Payloads {
				p := &entries[i].Payloads[j]
				p.Text, p.Base64, p.Erased, p.Withheld = "", "", false, true
			}
		}
		return nil
	}
	if err := s.withoutContents(ctx, c, entries); err != nil {
		return err
	}
	ev := audit.Event{Type: "contents.read", Actor: audit.Person(c.ID, c.Name), Remote: c.Remote, Credential: c.Credential, Object: object, Reason: c.Reason}
	for _, e := range entries {
		for _, p := range e.Payloads {
			if p.Text != "" || p.Base64 != "" {
				ev.Agent = e.Event.Agent
				return s.log.Change(ctx, func(tx *audit.Tx) error {
					tx.Record(ev)
					return nil
				})
			}
		}
	}
	return nil
}

// runBytes is how much payload an answer about a run holds at most.
const runBytes = 8 << 20

func (s *Service) serveRun(ctx context.Context, c rest.Caller, r *runRequest) (*RunListing, error) {
	limit := r.Limit
	if limit == 0 {
		limit = 500
	}
	out := RunListing{Run: r.Run, Events: []Entry{}}
	after, left := r.Cursor, runBytes
	for len(out.Events) < limit {
		recs, err := s.log.List(ctx, audit.Query{Run: r.Run, Oldest: true, After: after, Limit: min(limit-len(out.Events), 50), Payloads: !r.Bare})
		if err != nil {
			return nil, err
		}
		if len(recs) == 0 {
			break
		}
		for i := range recs {
			out.Events = append(out.Events, entryOf(&recs[i], &left))
		}
		after = recs[len(recs)-1].Event.ID
	}
	if len(out.Events) == 0 && r.Cursor == "" {
		return nil, audit.ErrNotFound.Say("the log holds no run %q", r.Run)
	}
	if len(out.Events) == limit {
		out.Next = after
	}
	return &out, s.reveal(ctx, c, "run/"+r.Run, r.Bare, out.Events)
}

// entryOf shows a record, with at most left bytes of payload.
func entryOf(r *audit.Record, left *int) Entry {
	e := Entry{Event: r.Event, Lane: r.Lane, SN: r.SN, Chain: hex.EncodeToString(r.Chain), Record: base64.StdEncoding.EncodeToString(r.Raw)}
	for _, c := range r.Event.Payloads {
		body, there := r.Payloads[c.Name]
		p := Payload{Name: c.Name, Size: c.Size, Digest: c.Digest, Level: string(c.Level)}
		p.Broken = slices.Contains(r.Damaged, c.Name)
		p.Erased = !there && !p.Broken && c.Level != audit.Digest
		p.Cut = len(body) == audit.MaxPayload && c.Size > audit.MaxPayload
		if len(body) > *left {
			body, p.Cut = body[:*left], true
		}
		*left -= len(body)
		if p.Cut {
			body = whole(body)
		}
		if utf8.Valid(body) {
			p.Text = string(body)
		} else {
			p.Base64 = base64.StdEncoding.EncodeToString(body)
		}
		e.Payloads = append(e.Payloads, p)
	}
	return e
}

// whole drops the beginning of a character that a cut left at the end of text.
func whole(body []byte) []byte {
	for n := range min(utf8.UTFMax, len(body)) {
		if utf8.Valid(body[:len(body)-n]) {
			return body[:len(body)-n]
		}
	}
	return body // not text
}

func (s *Service) serveVerify(ctx context.Context, _ rest.Caller, _ *struct{}) (*Verification, error) {
	began := time.Now()
	rep, err := s.log.Verify(ctx, nil)
	if err != nil {
		return nil, err
	}
	v := Verification{OK: len(rep.Problems) == 0, Events: rep.Events, Payloads: rep.Payloads, Erased: rep.Erased, Unkept: rep.Unkept, Lanes: rep.Lanes, Millis: time.Since(began).Milliseconds()}
	for _, p := range rep.Problems {
		v.Problems = append(v.Problems, Problem{p.Lane, p.SN, p.Event, p.Message})
	}
	return &v, nil
}

func (s *Service) serveRebuild(ctx context.Context, c rest.Caller, r *rebuildRequest) (*rest.None, error) {
	reason := c.Reason
	if r.Body != nil && r.Body.Reason != "" {
		reason = r.Body.Reason
	}
	return nil, s.Rebuild(ctx, audit.Person(c.ID, c.Name), reason)
}

// A tail's rhythm.
const (
	keepAlive    = 15 * time.Second
	writeTimeout = 30 * time.Second
)

func (s *Service) serveTail(ctx context.Context, c rest.Caller, r *tailRequest) (rest.Stream, error) {
	q, err := s.parse(c, r.Q)
	if err != nil {
		return nil, err
	}
	head, err := s.tailFrom(ctx, r)
	if err != nil {
		return nil, err
	}
	past, err := s.past(ctx, q, r)
	if err != nil {
		return nil, err
	}
	return func(w http.ResponseWriter) error {
		t := tail{w: w, rc: http.NewResponseController(w)}
		if err := t.send(nil); err != nil { // the headers, so that the client knows it is connected
			return err
		}
		sent := map[string]bool{}
		for i := range past {
			sent[past[i].Event.ID] = true
			if err := t.send(&past[i]); err != nil {
				return err
			}
		}
		return s.followTo(ctx, &t, q, head, sent)
	}, nil
}

// farBehind is how many events that are not indexed yet a tail reads at most
// to begin without a gap.
const farBehind = 10_000

// tailFrom returns where a tail begins to follow: where the index ends if it
// begins with what the index finds, the log's end if not.
func (s *Service) tailFrom(ctx context.Context, r *tailRequest) (audit.Cursor, error) {
	head, err := s.log.Head(ctx)
	if err != nil || (r.Last == 0 && r.Resume == "") {
		return head, err
	}
	at, err := s.store.positions(ctx)
	if err != nil {
		return nil, err
	}
	var behind int64
	for lane, sn := range head {
		behind += sn - at[lane]
	}
	if behind > farBehind {
		return head, nil
	}
	return at, nil
}

// past returns the events that a tail begins with, oldest first.
func (s *Service) past(ctx context.Context, q Query, r *tailRequest) ([]audit.Record, error) {
	if r.Resume != "" {
		res, err := s.Find(ctx, q, Page{After: r.Resume, Oldest: true, Limit: maxPage})
		return res.Records, err
	}
	if r.Last == 0 {
		return nil, nil
	}
	res, err := s.Find(ctx, q, Page{Limit: r.Last})
	slices.Reverse(res.Records)
	return res.Records, err
}

// followTo sends what is recorded after head until the client or the log goes.
func (s *Service) followTo(ctx context.Context, t *tail, q Query, head audit.Cursor, sent map[string]bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	recs, ended := make(chan audit.Record), make(chan error, 1)
	follow := s.log.Tail
	if q.HasText() {
		follow = s.log.Follow
	}
	go func() {
		ended <- follow(ctx, head, func(r audit.Record) error {
			if !q.Match(&r) {
				return nil
			}
			select {
			case recs <- r:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		var err error
		select {
		case r := <-recs:
			if sent[r.Event.ID] {
				delete(sent, r.Event.ID)
				continue
			}
			err = t.send(&r)
		case <-tick.C:
			err = t.send(nil)
		case err := <-ended:
			return err
		}
		if err != nil {
			return err
		}
	}
}

// tail writes Server-Sent Events (WHATWG HTML, section 9.2).
type tail struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// send writes an event, or a comment that keeps the connection alive.
func (t *tail) send(r *audit.Record) error {
	msg := []byte(": alive\n\n")
	if r != nil {
		msg = make([]byte, 0, len(r.Raw)+128)
		msg = append(msg, "event: "...)
		msg = append(msg, r.Event.Type...)
		msg = append(msg, "\nid: "...)
		msg = append(msg, r.Event.ID...)
		msg = append(msg, "\ndata: "...)
		msg = append(msg, r.Raw...) // canonical JSON holds no line feed
		msg = append(msg, "\n\n"...)
	}
	_ = t.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every writer has one
	if _, err := t.w.Write(msg); err != nil {
		return err
	}
	return t.rc.Flush()
}

type savedListing struct {
	Searches []Saved `json:"searches"`
}

type saveRequest struct {
	Name string `path:"name" maxLength:"64"`
	Body struct {
		Query  string `json:"query" maxLength:"4096" doc:"as for events"`
		Shared bool   `json:"shared,omitempty" doc:"others may use it"`
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

type savedRequest struct {
	Name string `path:"name" maxLength:"64"`
}

// savedRoutes declares what concerns saved searches. Everybody who sees the
// log keeps their own.
func (s *Service) savedRoutes(api *rest.API, path, tag string) {
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "List your saved searches and those that others share", Tag: tag},
		func(ctx context.Context, c rest.Caller, _ *struct{}) (*savedListing, error) {
			all, err := s.SavedBy(ctx, c.Name)
			return &savedListing{all}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPut, Path: path + "/{name}", Summary: "Save a search under a name", Tag: tag, Need: rest.Read},
		func(ctx context.Context, c rest.Caller, r *saveRequest) (*Saved, error) {
			reason := c.Reason
			if r.Body.Reason != "" {
				reason = r.Body.Reason
			}
			v, err := s.Save(ctx, audit.Person(c.ID, c.Name), reason, Saved{Name: r.Name, Query: r.Body.Query, Shared: r.Body.Shared})
			return &v, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: path + "/{name}", Summary: "Forget a saved search of yours", Tag: tag, Need: rest.Read},
		func(ctx context.Context, c rest.Caller, r *savedRequest) (*rest.None, error) {
			return nil, s.DeleteSaved(ctx, audit.Person(c.ID, c.Name), c.Reason, r.Name)
		})
}
