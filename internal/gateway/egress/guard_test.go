package egress_test

import (
	"cmp"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/test/line"
)

// guardian is a guardrail service.
type guardian struct {
	*httptest.Server
	mu     sync.Mutex
	texts  []string // what it was shown
	bearer []string // with what
	status int      // 0: it allows everything
}

func newGuardian(t *testing.T) *guardian {
	g := &guardian{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Text string }
		err := json.UnmarshalRead(r.Body, &q, json.MatchCaseInsensitiveNames(true))
		g.mu.Lock()
		g.texts, g.bearer = append(g.texts, q.Text), append(g.bearer, r.Header.Get("Authorization"))
		status := g.status
		g.mu.Unlock()
		if err != nil || status != 0 {
			w.WriteHeader(cmp.Or(status, http.StatusBadRequest))
			return
		}
		fmt.Fprint(w, `{"verdict":"allow"}`)
	}))
	t.Cleanup(g.Close)
	return g
}

// shown returns what the service was shown since it was last asked.
func (g *guardian) shown() (texts, bearer []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	texts, bearer = g.texts, g.bearer
	g.texts, g.bearer = nil, nil
	return texts, bearer
}

func (g *guardian) says(status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.status = status
}

const guardKey = "guard-5f0c2b7e91d84a36-key" //nolint:gosec // made up

func TestAGuardrailServiceSeesTheAddressToo(t *testing.T) {
	r, g := newRig(t, echo, map[string]string{"pets": "GET /pets?tag", "adopt": "POST /pets?notify json(name!)"}), newGuardian(t)
	r.inspects(map[string]string{"guard": g.URL + " private on=request text=whole"})
	r.ask("GET", "/pets?tag=obey%20me%21", nil)
	if texts, bearer := g.shown(); len(texts) != 1 || texts[0] != "/pets?tag=obey%20me%21\ntag=obey me!" || bearer[0] != "" {
		t.Errorf("%q %q", texts, bearer)
	}
	if a := r.ask("POST", "/pets?notify=obey", text(`{"name":"rex"}`), "Content-Type", "application/json"); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if texts, _ := g.shown(); len(texts) != 1 || texts[0] != "/pets?notify=obey\n\n"+`{"name":"rex"}` {
		t.Errorf("%q", texts)
	}
	r.inspects(map[string]string{"guard": g.URL + " private on=request"})
	r.ask("GET", "/pets?tag=jane%40example.org", nil)
	if texts, _ := g.shown(); len(texts) != 1 || strings.Contains(texts[0], "jane") {
		t.Errorf("personal data: %q", texts)
	}
}

// A guardrail service gets the secret that its connection names, and no other; its
// use is on record once a minute, its value nowhere. Without it nobody is asked.
func TestAGuardrailServiceHasACredential(t *testing.T) {
	r, g := newRig(t, echo, petOperations), newGuardian(t)
	host := strings.TrimPrefix(g.URL, "http://")
	put := func(name string, hosts ...string) {
		t.Helper()
		if _, err := r.Secrets.Put(t.Context(), line.By, line.Reason, secrets.Spec{Name: name, Owner: "pat", Connection: "forge", Hosts: hosts}, secrets.NewValue([]byte(guardKey))); err != nil {
			t.Fatal(err)
		}
		if err := r.Watch.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	put("guard-key", host)
	put("elsewhere-key", "guard.example")
	r.inspects(map[string]string{"guard": g.URL + " private secret=guard-key"})
	for range 2 {
		if a := r.ask("GET", "/pets?tag=x", nil); a.status != 200 || strings.Contains(a.body, guardKey) {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	if _, bearer := g.shown(); len(bearer) != 4 || bearer[0] != "Bearer "+guardKey || bearer[3] != bearer[0] {
		t.Errorf("%q", bearer)
	}
	uses := 0
	for _, e := range r.Events(3, audit.CallIntent) { // two calls, and the use of the secret
		if e.Event.Tool == "guardrail" && e.Event.Object == "secret/guard-key" {
			uses++
		}
	}
	if uses != 1 {
		t.Errorf("%d uses are on record", uses)
	}
	for name, c := range map[string]struct {
		words string
		made  bool
		asked bool
	}{
		"no such secret":        {"secret=nobody", false, false},
		"no such secret, open":  {"secret=nobody failure=open", true, false},
		"for another host":      {"secret=elsewhere-key", false, false},
		"another connection's":  {"secret=provider-key", false, false},
		"the one that it needs": {"secret=guard-key", true, true},
	} {
		r.inspects(map[string]string{"guard": g.URL + " private on=request " + c.words})
		a := r.ask("GET", "/pets?tag=x", nil)
		if texts, _ := g.shown(); (a.status == 200) != c.made || (len(texts) > 0) != c.asked || !c.made && a.code != "guardrail_blocked" {
			t.Errorf("%s: %d %s, asked %q", name, a.status, a.body, texts)
		}
	}
	for status, words := range map[int]string{401: "", 500: "", 302: "", 200: ""} {
		g.says(status)
		r.inspects(map[string]string{"guard": g.URL + " private on=request secret=guard-key" + words})
		if a := r.ask("GET", "/pets?tag=x", nil); a.code != "guardrail_blocked" || !strings.Contains(a.detail, "could not be asked") {
			t.Errorf("%d: %d %s", status, a.status, a.body)
		}
	}
	list, err := r.Log.List(t.Context(), audit.Query{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if strings.Contains(fmt.Sprintf("%+v", e), guardKey) {
			t.Errorf("the secret is in the log: %+v", e)
		}
	}
}

// A service that cannot be reached lets nothing pass, unless its connection says so.
func TestAGuardrailServiceThatIsNotThere(t *testing.T) {
	r, g := newRig(t, echo, petOperations), newGuardian(t)
	gone := newGuardian(t)
	gone.Close()
	for name, c := range map[string]struct {
		guard string
		made  bool
	}{
		"gone":              {gone.URL + " private", false},
		"gone, open":        {gone.URL + " private failure=open", true},
		"no such host":      {"https://guard.invalid/", false},
		"a private address": {strings.Replace(g.URL, "http:", "https:", 1), false},
		"no TLS there":      {strings.Replace(g.URL, "http:", "https:", 1) + " private", false},
	} {
		r.inspects(map[string]string{"guard": c.guard + " on=request timeout=30s"})
		if a := r.ask("GET", "/pets?tag=x", nil); (a.status == 200) != c.made || !c.made && a.code != "guardrail_blocked" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if texts, _ := g.shown(); len(texts) > 0 {
		t.Errorf("shown %q", texts)
	}
}
