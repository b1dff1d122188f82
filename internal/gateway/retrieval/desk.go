package retrieval

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/knowledge"
)

// Desk carries calls to the engines of retrieval connections and makes their
// answers. It is the line's gateway.Transport for them.
type Desk struct {
	o       DeskOptions
	engines map[string]engine
}

// DeskOptions are what a Desk is made of. Gateway, Registry, Knowledge and
// Injector must be set.
type DeskOptions struct {
	Gateway   *gateway.Gateway
	Injector  gateway.Injector
	Registry  Registry
	Knowledge *knowledge.Service
	Logger    *slog.Logger
	Version   string // of Countersign, told to MCP clients
}

// NewDesk returns a Desk.
func NewDesk(o DeskOptions) *Desk {
	if o.Gateway == nil || o.Registry == nil || o.Knowledge == nil || o.Injector == nil {
		panic("retrieval: Gateway, Registry, Knowledge and Injector must be set")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Desk{o: o}
	d.engines = map[string]engine{
		connections.Embedded:   embedded{o.Knowledge},
		connections.Postgres:   table{o.Injector},
		connections.OpenSearch: openSearch{o.Gateway},
		connections.Qdrant:     qdrant{o.Gateway},
		connections.SearchAPI:  searchAPI{o.Gateway},
	}
	return d
}

// engine finds documents. What it returns is looked at again.
type engine interface {
	// search calls visit with what it finds, the best first, until visit returns
	// false.
	search(ctx context.Context, job job, a ask, visit func(mapping.Document) bool) error
	// get returns one document; false if there is none.
	get(ctx context.Context, job job, id string) (mapping.Document, bool, error)
}

// job is one call on its way to an engine.
type job struct {
	receipt audit.Receipt
	call    *gateway.Call
	rights  rights
}

// Send implements gateway.Transport.
func (d *Desk) Send(ctx context.Context, receipt audit.Receipt, call *gateway.Call, req *http.Request) (*http.Response, error) {
	j := job{receipt: receipt, call: call, rights: rightsOf(call.Who)}
	reply := d.answer
	switch req.URL.Path {
	case plainPath:
	case reachPath:
		reply = d.tell
	default:
		return d.serveMCP(ctx, j, req)
	}
	a, err := reply(ctx, j)
	if err != nil {
		return nil, err
	}
	return a.response(), nil
}

// plainPath is where the front sends what is not MCP.
const plainPath = "/plain"

// answer is what the agent gets.
type answer struct {
	status int
	body   []byte
}

// response is an answer as the line passes it on.
func (a answer) response() *http.Response {
	h := http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}
	return &http.Response{StatusCode: a.status, Header: h, Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body))}
}

// answer makes the answer to a call of a tool.
func (d *Desk) answer(ctx context.Context, j job) (answer, error) {
	e, ok := d.engines[j.call.Connection.Dialect]
	if !ok {
		return answer{}, gateway.ErrTransport
	}
	switch j.call.Tool.Name {
	case connections.RetrieveSearch:
		return d.search(ctx, j, e)
	case connections.RetrieveGet:
		return d.get(ctx, j, e)
	}
	return answer{}, gateway.ErrTransport
}

func (d *Desk) search(ctx context.Context, j job, e engine) (answer, error) {
	a, err := parseSearch(j.call.Args)
	if err != nil {
		return answer{}, err
	}
	s := d.sift(j)
	err = e.search(ctx, j, a, func(doc mapping.Document) bool {
		if s.take(doc, a.Filters) {
			s.show(doc, maxExcerpt)
		}
		return len(s.shown) < a.limit()
	})
	if err != nil {
		return answer{}, d.failed(j, err)
	}
	documents, err := s.handed()
	if err != nil {
		return answer{}, err
	}
	body, err := json.Marshal(struct {
		Documents []shown `json:"documents"`
	}{documents}, json.FormatNilSliceAsNull(false), jsontext.EscapeForHTML(true))
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, body}, s.bring()
}

func (d *Desk) get(ctx context.Context, j job, e engine) (answer, error) {
	id, err := parseGet(j.call.Args)
	if err != nil {
		return answer{}, err
	}
	doc, found, err := e.get(ctx, j, id)
	if err != nil {
		return answer{}, d.failed(j, err)
	}
	s := d.sift(j)
	if !found || doc.ID != id || !s.take(doc, filters{}) {
		return answer{http.StatusNotFound, notFound}, s.bring()
	}
	s.show(doc, maxText)
	documents, err := s.handed()
	if err != nil {
		return answer{}, err
	}
	body, err := json.Marshal(struct {
		Document shown `json:"document"`
	}{documents[0]}, jsontext.EscapeForHTML(true))
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, body}, s.bring()
}

// notFound is the answer for what is not there and for what may not be read.
var notFound = []byte(`{"code":"` + errNotFound.Code + `","detail":"` + errNotFound.Message + `"}`)

// failed says in our words that an engine failed; its own go to our log.
func (d *Desk) failed(j job, err error) error {
	if j.call.Connection.Dialect != connections.Embedded {
		d.o.Logger.Warn("an engine failed", "connection", j.call.Connection.Name, "call", j.call.ID, "error", err)
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	if errors.Is(err, mapping.ErrAnswer) {
		return gateway.ErrAnswer.With(err)
	}
	return err // of the network: the line knows its words
}

// shown is a document as an agent sees it. Who else may read it is none of its
// business.
type shown struct {
	ID             string `json:"id"`
	Title          string `json:"title,omitzero"`
	Text           string `json:"text"`
	Truncated      bool   `json:"truncated,omitzero"`
	Owner          string `json:"owner,omitzero"`
	Classification string `json:"classification,omitzero"`
	Source         string `json:"source"`
	Collection     string `json:"collection,omitzero"`
}

// read is a document in the log.
type read struct {
	ID     string `json:"id"`
	Digest string `json:"digest"`
}

// sieve lets through what the answer may contain.
type sieve struct {
	d        *Desk
	j        job
	document connections.Tool
	known    bool
	seen     map[string]bool
	shown    []shown
	read     []read
	withheld int // what the engine returned although it may not be read
	hidden   int // what policy hides
	trusted  []shown
	other    []shown
	labels   map[string]bool
	readers  [][]string // of each confidential document
}

func (d *Desk) sift(j job) *sieve {
	s := &sieve{d: d, j: j, seen: map[string]bool{}, labels: map[string]bool{}}
	s.document, s.known = d.o.Registry.Tool(j.call.Connection.Name, connections.RetrieveDocument)
	return s
}

// take reports whether a document may be in the answer.
func (s *sieve) take(doc mapping.Document, f filters) bool {
	switch {
	case s.seen[doc.ID] || !utf8.ValidString(doc.ID+doc.Title+doc.Text+doc.Owner+doc.Classification+doc.Collection):
		return false
	case !s.j.rights.admit(doc):
		s.withheld++
		return false
	}
	for _, x := range [][2]string{{f.Owner, doc.Owner}, {f.Classification, doc.Classification}, {f.Source, doc.Source}, {f.Collection, doc.Collection}} {
		if x[0] != "" && x[0] != x[1] {
			return false
		}
	}
	if !s.allowed(doc) {
		s.hidden++
		return false
	}
	s.seen[doc.ID] = true
	return true
}

// allowed asks policy about the document.
func (s *sieve) allowed(doc mapping.Document) bool {
	if !s.known {
		return false
	}
	args, err := json.Marshal(struct {
		ID             string `json:"id"`
		Owner          string `json:"owner"`
		Classification string `json:"classification"`
		Source         string `json:"source"`
		Collection     string `json:"collection"`
	}{doc.ID, doc.Owner, doc.Classification, doc.Source, doc.Collection})
	return err == nil && s.d.o.Gateway.Admits(s.j.call, s.document, args)
}

// show puts a document into the answer.
func (s *sieve) show(doc mapping.Document, most int) {
	sum := sha256.Sum256([]byte(doc.Text))
	x := shown{ID: doc.ID, Title: doc.Title, Text: doc.Text, Owner: doc.Owner, Classification: doc.Classification, Source: doc.Source, Collection: doc.Collection}
	if len(x.Text) > most {
		x.Text, x.Truncated = cut(x.Text, most), true
	}
	s.shown = append(s.shown, x)
	s.read = append(s.read, read{doc.ID, hex.EncodeToString(sum[:])})
	if doc.Source == mapping.Trusted {
		s.trusted = append(s.trusted, x)
	} else {
		s.other = append(s.other, x)
	}
	for _, l := range []string{"confidential", "secret", "pii"} {
		if strings.EqualFold(doc.Classification, l) {
			s.labels[l] = true
		}
	}
	if c := doc.Classification; strings.EqualFold(c, "confidential") || strings.EqualFold(c, "secret") {
		s.readers = append(s.readers, doc.Readers)
	}
}

// handed are the documents as they are handed out: if the connection asks for it,
// with references in place of what may be anybody's text.
func (s *sieve) handed() ([]shown, error) {
	g := s.d.o.Gateway
	if !g.StrictDocuments(s.j.call) {
		return s.shown, nil
	}
	out := slices.Clone(s.shown)
	for i := range out {
		x := &out[i]
		if x.Source == mapping.Trusted {
			continue
		}
		x.Source = knowledge.Untrusted
		for _, text := range []*string{&x.ID, &x.Title, &x.Text, &x.Owner, &x.Classification, &x.Collection} {
			prose := text == &x.Title || text == &x.Text
			if *text == "" || !prose && flow.Plain(*text) {
				continue
			}
			ref, err := g.ReferText(s.j.call, *text)
			if err != nil {
				return nil, err
			}
			*text = ref
		}
	}
	return out, nil
}

// cut shortens a text at a character's border.
func cut(s string, n int) string {
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// maxObjects is how many of the documents are objects of the outcome's event;
// its detail names all of them.
const maxObjects = 16

// bring tells the line what is about to be read.
func (s *sieve) bring() error {
	b := gateway.Brought{Readers: s.readers, Detail: struct {
		Documents []read `json:"documents"`
		Withheld  int    `json:"withheld,omitzero"`
		Hidden    int    `json:"hidden,omitzero"`
	}{append([]read{}, s.read...), s.withheld, s.hidden}}
	for _, l := range []string{"confidential", "pii", "secret"} {
		if s.labels[l] {
			b.Labels = append(b.Labels, l)
		}
	}
	for _, r := range s.read[:min(len(s.read), maxObjects)] {
		b.Objects = append(b.Objects, "document/"+s.j.call.Connection.Name+"/"+r.ID)
	}
	return s.d.o.Gateway.Bring(s.j.call, b, list(s.trusted), list(s.other))
}

func list(docs []shown) []byte {
	if len(docs) == 0 {
		return nil
	}
	b, err := json.Marshal(docs)
	if err != nil { // what cannot be written counts as read all the same
		return []byte(`[]`)
	}
	return b
}
