package retrieval_test

import (
	"encoding/json/v2"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/retrieval"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/knowledge"
	"github.com/countersign/countersign/internal/pseudonyms"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/test/line"
)

// rig is a line with the front, the knowledge base "handbook" behind it, and a
// person for whom the agent acts.
type rig struct {
	*line.Line
	t         testing.TB
	url       string // of the server
	knowledge *knowledge.Service
	desk      *retrieval.Desk
	person    atomic.Pointer[identity.Person] // nil: nobody
}

func newRig(t testing.TB, db *storage.DB) *rig {
	t.Helper()
	r := &rig{t: t}
	r.Line = line.Start(t, db, line.Options{As: r.as, Tune: func(l *line.Line, o *gateway.Options) {
		stand, err := pseudonyms.New(l.DB, l.Log, pseudonyms.Options{Derive: l.Secrets.Derive})
		if err != nil {
			t.Fatal(err)
		}
		o.Pseudonyms = stand
	}})
	var err error
	if r.knowledge, err = knowledge.New(db, r.Log, r.Connections, time.Now); err != nil {
		t.Fatal(err)
	}
	r.desk = retrieval.NewDesk(retrieval.DeskOptions{Gateway: r.Gateway, Injector: r.Secrets, Registry: r.Connections, Knowledge: r.knowledge})
	r.Gateway.Retrieval(r.desk)
	s := httptest.NewServer(retrieval.New(retrieval.Options{Gateway: r.Gateway, Registry: r.Connections, ReadTimeout: 5 * time.Second}))
	r.url = s.URL
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	r.embedded("handbook")
	return r
}

// as puts the person of the moment at the head of the chain.
func (r *rig) as(c identity.Caller) identity.Caller {
	p := r.person.Load()
	if p == nil {
		return c
	}
	c.For = p
	c.OnBehalfOf = append([]audit.Actor{audit.Person(p.ID, p.Name)}, c.OnBehalfOf...)
	return c
}

// is sets for whom the agent acts from now on; an empty name: for nobody.
func (r *rig) is(name string, groups ...string) {
	if name == "" {
		r.person.Store(nil)
		return
	}
	r.person.Store(&identity.Person{User: identity.User{ID: "usr_" + name, Name: name, Role: "member"}, Groups: groups})
}

func (r *rig) embedded(name string) {
	r.t.Helper()
	r.Register(connections.Connection{Name: name, Kind: connections.Retrieval, Dialect: connections.Embedded, Owner: "pat"})
	r.Policies(line.AllowAll)
}

func (r *rig) put(connection string, docs ...knowledge.Document) {
	r.t.Helper()
	for batch := range slices.Chunk(docs, knowledge.MaxBatch) {
		if _, err := r.knowledge.Put(r.t.Context(), line.By, line.Reason, connection, batch); err != nil {
			r.t.Fatal(err)
		}
	}
}

// answer is what a client got.
type answer struct {
	status int
	body   string
	ids    []string
	code   string
}

// post asks at a path beneath /retrieve/.
func (r *rig) post(path, body string) answer {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodPost, r.url+"/retrieve/"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.Key)
	req.Header.Set("Content-Type", "application/json")
	return r.do(req)
}

func (r *rig) do(req *http.Request) answer {
	r.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, body: string(b)}
	var v struct {
		Documents []struct {
			ID string `json:"id"`
		} `json:"documents"`
		Code string `json:"code"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		r.t.Fatalf("the answer is not JSON: %v\n%s", err, b)
	}
	a.code = v.Code
	for _, d := range v.Documents {
		a.ids = append(a.ids, d.ID)
	}
	return a
}

func (r *rig) search(connection, query string, limit int) answer {
	r.t.Helper()
	b, err := json.Marshal(map[string]any{"query": query, "limit": limit})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.post(connection, string(b))
}

func (r *rig) get(connection, id string) answer {
	r.t.Helper()
	b, err := json.Marshal(map[string]string{"id": id})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.post(connection+"/get", string(b))
}

func doc(id, text string, readers ...string) knowledge.Document {
	return knowledge.Document{ID: id, Title: "About " + id, Text: text, Readers: readers}
}
