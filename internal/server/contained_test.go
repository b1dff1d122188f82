package server_test

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// raid is an attack on a stolen key: requests in their order, made by somebody on
// every replica at once. When they are through, the last is made again until it is
// refused everywhere, or so often.
type raid struct {
	name     string
	requests []theft
	most     int                            // requests that are made; 0: until it is refused
	before   func(t testing.TB, p *process) // what is done first
	unused   bool                           // the key never worked
	alone    bool                           // it is about all that is called, so only one can be tried on a server
}

// theft is one request of a thief.
type theft struct {
	list    bool // the models, not one of them
	model   string
	words   string
	tokens  int // max_tokens
	client  string
	network int // of loopback: 127.N.0.1
}

// own is a request as the agents make them.
var own = theft{model: "gpt-5", words: "hello", tokens: 50, client: "OpenAI/Python 2.1"}

const thief = "python-requests/2.32"

// raids are the attacks of the simulated month (internal/detection), as requests.
func raids() []raid {
	probe := func(models int) (out []theft) {
		for i := range models {
			out = append(out, theft{model: fmt.Sprintf("model-%d", i), words: "hi", tokens: -1, client: thief, network: 66})
		}
		return out
	}
	enumerate := []theft{{list: true, client: thief, network: 66}}
	for _, m := range []string{"gpt-5", "claude-haiku-4-5", "gpt-5-pro", "o9"} {
		enumerate = append(enumerate, theft{model: m, words: "hello", tokens: 50, client: thief, network: 66})
	}
	var sold, hop []theft
	for i := range 12 {
		words := []string{"write me a story about dragons", "напиши мне рассказ о драконах", "给我写一个关于龙的故事，要很长很长很长", "what model are you?"}[i%4]
		sold = append(sold, theft{model: "gpt-5", words: words, tokens: 50, client: []string{"curl/8.1", "axios/1.7", "okhttp/4.0", "SillyTavern/1.0"}[i%4], network: 70 + i})
		hop = append(hop, theft{model: fmt.Sprintf("hop-%d", i), words: "hello", tokens: 50, client: "OpenAI/Python 2.1"})
	}
	return []raid{
		{name: "key probing, a key that was never used", requests: probe(10), unused: true},
		{name: "key probing, a key at work", requests: probe(10)},
		{name: "enumerate, then invoke", requests: enumerate},
		{name: "resold key", requests: sold},
		{name: "model hop, from the agent's own network", requests: hop},
		{name: "slow leak", requests: []theft{own}, most: 40},
		{name: "logging removed, then a burst", requests: []theft{own}, alone: true, before: func(t testing.TB, p *process) {
			p.api(t, "PUT", "/log/retention", map[string]any{"days": 30}, nil)
		}},
	}
}

// provider answers as a provider of models does, and refuses what none accepts.
func provider(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Tokens int `json:"max_tokens"`
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_ = json.Unmarshal(b, &asked) // a list has no body
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Method == http.MethodGet:
		fmt.Fprint(w, `{"object":"list","data":[{"id":"gpt-5","object":"model","created":1,"owned_by":"x"}]}`)
	case asked.Tokens < 0:
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":{"message":"max_tokens must be positive","type":"invalid_request_error"}}`)
	default:
		fmt.Fprint(w, `{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}`)
	}
}

// ground is a server, or three on PostgreSQL, whose detection acts, with agents that
// have been at work for ten days.
type ground struct {
	t   testing.TB
	all []*process
	*client.Client
}

// seed records ten days of work of agents while no server runs.
func seed(t testing.TB, data, dsn string, agents ...string) {
	t.Helper()
	ctx, db := context.Background(), storagetest.Open(t, dsn)
	keeper, err := secrets.OpenKeeper(ctx, filepath.Join(data, "key"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(ctx, db, audit.Options{Redactor: inspection.New(), Keeper: keeper})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	defer log.Close(ctx)
	var all errgroup.Group
	for _, agent := range agents {
		all.Go(func() error { return worked(ctx, log, agent) })
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
}

// worked records what an agent did in ten days: one model, one place.
func worked(ctx context.Context, log *audit.Log, agent string) error {
	began := time.Now().AddDate(0, 0, -10)
	for i := range 40 {
		ev := audit.Event{Type: audit.CallIntent, Call: id.New(id.Call), Time: began.Add(time.Duration(i) * 6 * time.Hour), Actor: audit.Actor{Kind: audit.KindAgent, Name: agent}, Agent: agent, Stage: "production",
			Credential: "key_of_" + agent, Connection: "openai", Tool: "chat.completions", Effect: "read", Remote: "127.0.0.1", Client: "OpenAI/Python 2.1", Detail: []byte(`{"model":"gpt-5"}`)}
		receipt, err := log.Intent(ctx, ev)
		if err != nil {
			return err
		}
		ev.Type, ev.Outcome, ev.Remote, ev.Client = audit.CallOutcome, &audit.Outcome{Status: audit.Succeeded, Code: 200}, "", ""
		ev.Detail = []byte(`{"model":"gpt-5","script":"latin"}`)
		log.Outcome(receipt, ev)
	}
	return nil
}

func newGround(t testing.TB, dsn string, n int, agents ...string) *ground {
	t.Helper()
	data := t.TempDir()
	first := start(t, data, dsn, "")
	first.stop(t)
	seed(t, data, dsn, agents...)
	upstream := httptest.NewServer(http.HandlerFunc(provider))
	t.Cleanup(upstream.Close)
	f := &ground{t: t, all: replicasOf(t, data, dsn, first.token, n)}
	p := f.all[0]
	f.Client = client.New(p.url, p.token).WithReason("test")
	p.company(t)
	p.model(t, "openai", "openai", upstream.URL, "provider-secret-0123456789")
	for _, a := range agents {
		p.api(t, "PUT", "/agents/"+a, map[string]any{"owner": "olga", "backup": "ben", "stage": "production", "purpose": "tests"}, nil)
		p.api(t, "PUT", "/grants/"+a+"-openai", map[string]any{"agent": a, "connection": "openai", "tools": []string{"*"}, "expires": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339), "reason": "test"}, nil)
	}
	if _, err := f.SetDetectionMode(t.Context(), "*", "enforce"); err != nil {
		t.Fatal(err)
	}
	f.until("detection does not follow", func() bool {
		st, err := f.DetectionStatus(t.Context(), "")
		return err == nil && !st.ActsSince.IsZero()
	})
	return f
}

func (f *ground) until(otherwise string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(100 * time.Millisecond) { // who asks too often keeps the server from getting there
		if time.Now().After(end) {
			f.t.Fatal(otherwise)
		}
	}
}

// outcome is what came of a raid.
type outcome struct {
	rule    string        // that acted; empty: none
	calls   int           // that passed, of the raid
	after   int           // of which after the deciding event
	last    time.Duration // from the deciding event to the last call that passed
	refused time.Duration // to the first refusal on the replica that refused last
	cut     time.Duration // as the product says: to the last cut on every replica
	passed  int64         // as the product says
}

// raid makes an attack on a new key of an agent and waits for what comes of it.
func (f *ground) raid(a raid, agent string) (out outcome) {
	f.t.Helper()
	var key struct {
		ID  string `json:"id"`
		Key string `json:"key"`
	}
	f.all[0].api(f.t, "POST", "/agents/"+agent+"/keys", map[string]any{}, &key)
	if !a.unused {
		for _, p := range f.all {
			f.until("the key does not work", func() bool { status, _ := p.steal(f.t, key.Key, own); return status == http.StatusOK })
		}
	}
	if a.before != nil {
		a.before(f.t, f.all[0])
	}
	began := time.Now()
	var next atomic.Int64
	var mu sync.Mutex
	var all sync.WaitGroup
	var firsts []time.Time // refusals, by replica
	for _, p := range f.all {
		all.Go(func() {
			for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
				n := int(next.Add(1)) - 1
				if a.most > 0 && n >= a.most {
					return
				}
				status, body := p.steal(f.t, key.Key, a.requests[min(n, len(a.requests)-1)])
				switch {
				case status == http.StatusForbidden && strings.Contains(body, `"locked"`):
					mu.Lock()
					firsts = append(firsts, time.Now())
					mu.Unlock()
					return
				case status == http.StatusOK, status == http.StatusBadRequest, status == 0: // 0: it was cut
				case status == http.StatusUnauthorized: // this replica does not know the key yet
					next.Add(-1)
					time.Sleep(5 * time.Millisecond)
				default:
					f.t.Errorf("%s: %d %s", a.name, status, body)
					return
				}
			}
		})
	}
	all.Wait()
	d := f.acted(key.ID, len(firsts) > 0)
	for _, at := range f.passed(key.ID) {
		if at.After(began) {
			out.calls++
		}
		if d != nil && at.After(d.Happened) {
			out.after++
			out.last = max(out.last, at.Sub(d.Happened))
		}
	}
	if d == nil {
		return out
	}
	out.rule, out.cut, out.passed = d.Rule, time.Duration(d.Contained*float64(time.Millisecond)), *d.Passed
	if len(firsts) == len(f.all) {
		out.refused = slices.MaxFunc(firsts, time.Time.Compare).Sub(d.Happened)
	}
	return out
}

// acted returns the detection that stopped a credential, with how fast it was; nil
// if nothing did.
func (f *ground) acted(credential string, stopped bool) (first *client.Detection) {
	f.t.Helper()
	var seen []client.Detection
	defer func() {
		if f.t.Failed() {
			f.t.Logf("stopped: %v; %+v\n%s", stopped, seen, tailOf(f.all[0].stderr.Bytes()))
		}
	}()
	f.until("it is not told how fast it was", func() bool {
		all, err := f.Detections(f.t.Context(), true, "", 1000)
		if err != nil {
			f.t.Fatal(err)
		}
		first, seen = nil, nil
		for i := range all {
			d := &all[i]
			if d.Credential == credential {
				seen = append(seen, *d)
			}
			if d.Credential != credential || d.Lock == "" {
				continue
			}
			if first == nil || d.Decided.Before(first.Decided) || d.Decided.Equal(first.Decided) && first.Rule == "signals.together" {
				first = d
			}
		}
		if !stopped {
			st, err := f.DetectionStatus(f.t.Context(), "")
			return err == nil && st.Behind == 0
		}
		return first != nil && first.Passed != nil
	})
	return first
}

// passed returns when calls of a credential went out, by the log.
func (f *ground) passed(credential string) (out []time.Time) {
	f.t.Helper()
	var events []client.Event
	f.until("the index does not follow", func() bool {
		page, err := f.SearchLog(f.t.Context(), "type:call.intent credential:"+credential, "", 1000, true)
		if err != nil {
			f.t.Fatal(err)
		}
		events = page.Events
		return page.Behind == 0
	})
	for _, ev := range events {
		out = append(out, ev.Time)
	}
	return out
}

// steal makes one request of a thief, from a network of loopback. The status is 0 if
// the call was cut.
func (p *process) steal(t testing.TB, key string, x theft) (int, string) {
	t.Helper()
	path, method, body := "/llm/openai/v1/chat/completions", http.MethodPost, ""
	if x.list {
		path, method = "/llm/openai/v1/models", http.MethodGet
	} else {
		b, err := json.Marshal(map[string]any{"model": x.model, "max_tokens": x.tokens, "messages": []any{map[string]string{"role": "user", "content": x.words}}})
		if err != nil {
			t.Fatal(err)
		}
		body = string(b)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", x.client)
	dial := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, byte(x.network), 0, 1)}}
	one := &http.Transport{DialContext: dial.DialContext}
	defer one.CloseIdleConnections()
	resp, err := one.RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// A stolen key that is tried on models is refused on every replica, whatever is
// called meanwhile, and the product says how fast, and what passed until then, as the
// log has it.
func TestAStolenKeyIsCutOnEveryReplica(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		f := newGround(t, dsn, 3, "bot")
		hop := raids()[4]
		got := f.raid(hop, "bot")
		t.Logf("%+v", got)
		if got.rule == "" || got.refused == 0 || got.cut == 0 {
			t.Errorf("%s: %+v", hop.name, got)
		}
		if int64(got.after) != got.passed {
			t.Errorf("the log has %d calls after the event that decided, the detection says %d", got.after, got.passed)
		}
	})
}

// TestTheBenchOfContainment writes its table into docs/detection-bench.md (make
// detection-bench).
func TestTheBenchOfContainment(t *testing.T) {
	path := os.Getenv("COUNTERSIGN_DETECTION_BENCH")
	if path == "" {
		t.Skip("make detection-bench runs it")
	}
	const tries, alone = 5, 2
	var table strings.Builder
	for _, c := range []struct {
		name string
		n    int
		dsn  func(testing.TB) string
	}{{"SQLite, one server", 1, storagetest.SQLite}, {"PostgreSQL, three replicas", 3, storagetest.Postgres}} {
		fmt.Fprintf(&table, "\n| %s | detected by | tries | to the last call that passed | to the first refusal on the last replica | calls that passed meanwhile | as the product says |\n|---|---|---|---|---|---|---|\n", c.name)
		rows := map[string][]outcome{}
		for server := range alone {
			agents := []string{"alone"}
			for i := range tries * len(raids()) {
				agents = append(agents, fmt.Sprintf("bot-%d", i))
			}
			if server > 0 {
				agents = agents[:1]
			}
			f := newGround(t, c.dsn(t), c.n, agents...)
			for i, agent := range agents[1:] {
				if a := raids()[i%len(raids())]; !a.alone {
					rows[a.name] = append(rows[a.name], f.raid(a, agent))
				}
			}
			for _, a := range raids() {
				if a.alone {
					rows[a.name] = append(rows[a.name], f.raid(a, "alone"))
				}
			}
			for _, p := range f.all {
				p.stop(t)
			}
		}
		for _, a := range raids() {
			table.WriteString(rowOf(a.name, rows[a.name]))
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(b), containedHead)
	text = strings.TrimRight(text, "\n") + "\n\n" + containedHead + containedText + machine() + table.String()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	fmt.Print(table.String())
}

const containedHead = "## Contained, through real servers\n"

const containedText = `
The same attacks as HTTP calls on real server processes, by a thief who calls on every replica at once, one call after the other, and goes on until each replica refuses; agents have ten days of work in the log behind them, and every rule
acts. Times are from the deciding event, by its time in the log: to the last call that went out all the same, by the log; to the first refusal that the thief gets on the replica that refuses last; and to the last cut on every replica, as
detection show, the finding and the incident say it. Each is the median and the worst.
`

// machine says on what it was measured: on a busy one each step waits for its turn.
func machine() string {
	text := fmt.Sprintf("\nMeasured on %d cores, which servers, thief and provider share", runtime.NumCPU())
	if b, err := os.ReadFile("/proc/loadavg"); err == nil && len(strings.Fields(string(b))) > 1 {
		text += "; load average of the last five minutes " + strings.Fields(string(b))[1]
	}
	return text + ". Through the database other replicas' events are looked for five times a second.\n"
}

// rowOf is a row of the table.
func rowOf(name string, all []outcome) string {
	var rules []string
	var last, refused, cut []time.Duration
	var after []int
	calls := 0
	for _, o := range all {
		calls += o.calls
		if o.rule == "" {
			continue
		}
		if !slices.Contains(rules, "`"+o.rule+"`") {
			rules = append(rules, "`"+o.rule+"`")
		}
		last, refused, cut, after = append(last, o.last), append(refused, o.refused), append(cut, o.cut), append(after, o.after)
	}
	if len(last) < len(all) {
		rules = append(rules, fmt.Sprintf("not detected in %d", len(all)-len(last)))
	}
	if len(last) == 0 {
		return fmt.Sprintf("| %s | not detected | %d | | | %d, all | |\n", name, len(all), calls)
	}
	slices.Sort(after)
	return fmt.Sprintf("| %s | %s | %d | %s | %s | %d, %d | %s |\n", name, strings.Join(rules, ", "), len(all), spread(last), spread(refused), after[len(after)/2], after[len(after)-1], spread(cut))
}

// spread is the median and the worst.
func spread(all []time.Duration) string {
	slices.Sort(all)
	return fmt.Sprintf("%d ms, %d ms", all[len(all)/2].Milliseconds(), all[len(all)-1].Milliseconds())
}
