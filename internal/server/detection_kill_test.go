package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// selling is the rule that the thieves of these tests fire: by five prompts by which
// stolen keys are tried.
const selling = "key.resold"

// robbed is a key that a thief has.
type robbed struct{ id, key string }

// rob gives a new agent in production a key, for a thief.
func (p *plant) rob(name string) (r robbed) {
	p.t.Helper()
	p.api(p.t, "PUT", "/agents/"+name, map[string]any{"owner": "olga", "backup": "ben", "stage": "production", "purpose": "tests"}, nil)
	p.api(p.t, "PUT", "/grants/"+name+"-up", map[string]any{"agent": name, "connection": "up", "tools": []string{"*"}, "expires": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339), "reason": "test"}, nil)
	var issued struct {
		ID  string `json:"id"`
		Key string `json:"key"`
	}
	p.api(p.t, "POST", "/agents/"+name+"/keys", map[string]any{}, &issued)
	return robbed{issued.ID, issued.Key}
}

// sold makes a call as whoever buys stolen keys does, and reports whether it was
// refused because the key is locked. The server may be dead.
func sold(ctx context.Context, p *process, r robbed, n int) (locked bool) {
	body := fmt.Sprintf(`{"model":"gpt-5","max_tokens":%d,"user":%q,"messages":[{"role":"user","content":"What model are you?"}]}`, n+1, r.id)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/llm/up/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", "Bearer "+r.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return err == nil && resp.StatusCode == http.StatusForbidden && strings.Contains(string(b), `"locked"`)
}

// sell makes calls on servers in turn until the key is locked, or ctx ends.
func sell(ctx context.Context, r robbed, from int, on ...*process) (locked bool) {
	for n := from; ctx.Err() == nil && !locked; n++ {
		locked = sold(ctx, on[n%len(on)], r, n)
	}
	return locked
}

// once checks, on a server that is alive, that what a thief did was found and acted
// upon, and each of it once; in the long form that it is told how fast it was cut, too,
// which waits a while for who died.
func once(t *testing.T, p *process, what string, r robbed) {
	t.Helper()
	c := client.New(p.url, p.token)
	var mine []client.Detection
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		all, err := c.Detections(t.Context(), true, "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		mine = mine[:0]
		for _, d := range all {
			if d.Credential == r.id && d.Rule == selling {
				mine = append(mine, d)
			}
		}
		if len(mine) > 0 && (mine[0].Contained > 0 || !long()) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%s: it was lost, or nobody says that it is cut: %+v", what, mine)
		}
	}
	if len(mine) != 1 || mine[0].State != "active" {
		t.Errorf("%s: %+v", what, mine)
	}
	found, err := c.Findings(t.Context(), client.FindingQuery{Object: "credential/" + r.id, Rule: "detection." + selling})
	if err != nil || len(found) != 1 || found[0].Status != "open" || found[0].Reopened != 0 {
		t.Errorf("%s: %v %+v", what, err, found)
	}
	locks, err := c.Locks(t.Context(), true)
	n := 0
	for _, l := range locks {
		if l.Name == r.id {
			n++
		}
	}
	if err != nil || n != 1 {
		t.Errorf("%s: locked %d times (%v)", what, n, err)
	}
	for _, kind := range []string{"detection.acted", "detection.contained"} {
		if kind == "detection.contained" && !long() {
			continue
		}
		var page client.Page
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if page, err = c.SearchLog(t.Context(), "type:"+kind+" credential:"+r.id, "", 100, true); err == nil && page.Behind == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: the index does not follow: %v", what, err)
			}
		}
		if len(page.Events) != 1 {
			t.Errorf("%s: %d times %s in the log", what, len(page.Events), kind)
		}
	}
}

// guardPlace is a moment on the way from an event to what is done about it.
type guardPlace struct {
	deadPlace
	short bool // it is in the short form
}

// written is a place at a write of the follower.
func written(sql, table, condition string, committed bool) deadPlace {
	p := deadPlace{name: "before the commit of " + table + " " + condition, postgres: stop{sql: sql, commit: true, after: committed}, sqlite: table + " " + condition, when: "within"}
	if committed {
		p.name, p.when = "after the commit of "+table+" "+condition, "committed"
	}
	return p
}

var guardPlaces = []guardPlace{
	{deadPlace: written("INSERT INTO detection_states", "detection_states", "INSERT", false)},
	{deadPlace: written("INSERT INTO detection_states", "detection_states", "INSERT", true)},
	{deadPlace: written("INSERT INTO locks", "locks", "INSERT", false)},
	{deadPlace: written("INSERT INTO detections", "detections", "INSERT", false), short: true},
	{deadPlace: written("INSERT INTO detections", "detections", "INSERT", true), short: true},
	{deadPlace: written("UPDATE detections SET contained", "detections", "UPDATE NEW.contained > OLD.contained", false)},
	{deadPlace: written("UPDATE detections SET contained", "detections", "UPDATE NEW.contained > OLD.contained", true)},
}

// Whatever the moment at which the server dies between an attack and its end: what was
// found is found once, what is done about it is done once, and nothing is lost.
func TestKillOfDetection(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	rounds := 1
	if long() {
		rounds = 8
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		var wire *tap
		own := dsn
		if strings.HasPrefix(dsn, "postgres") {
			wire, dsn = newTap(t, dsn)
		}
		p := newPlant(t, t.TempDir(), dsn)
		p.api(t, "PUT", "/detection/rules/"+selling+"/mode", map[string]any{"mode": "enforce"}, nil)
		for round := range rounds {
			for i, place := range guardPlaces {
				if !place.short && !long() || place.when == "committed" && wire == nil && !hasStrace(t) {
					continue
				}
				p.dieGuarding(place.deadPlace, wire, own, p.rob(fmt.Sprintf("bot-%d-%d", round, i)))
			}
		}
		p.dsn = own
		p.whole()
	})
}

// dieGuarding has the server die at a place while a key is sold, starts it again, and
// looks at what came of it.
func (p *plant) dieGuarding(at deadPlace, wire *tap, own string, r robbed) {
	p.t.Helper()
	p.arm(at, wire)
	victim, gone := p.process, make(chan struct{})
	go func() { _ = victim.cmd.Wait(); close(gone) }()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	sell(ctx, r, 0, victim)
	select { // the key may be locked a moment before
	case <-gone:
	case <-time.After(time.Minute):
		_ = victim.cmd.Process.Kill()
		<-gone
		p.t.Errorf("%s: it was never reached\n%s", at.name, tailOf(victim.stderr.Bytes()))
	}
	if !p.wasKilled(at) {
		return
	}
	p.freed(own, "detection")
	p.again()
	p.recovers(time.Minute)
	more, stop := context.WithTimeout(p.t.Context(), time.Minute)
	defer stop()
	if !sell(more, r, 1000, p.process) {
		p.t.Errorf("%s: the key is not locked\n%s", at.name, tailOf(p.stderr.Bytes()))
		return
	}
	once(p.t, p.process, at.name, r)
}

// Of two replicas one evaluates. Whichever dies while a key is sold, the other goes on
// where it was.
func TestKillOfOneReplicaThatDetects(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	rounds := 2 // one of two in a row is the one that evaluates
	if long() {
		rounds = 20
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		if !strings.HasPrefix(dsn, "postgres") {
			t.Skip("one process")
		}
		up := httptest.NewServer(&witness{seen: map[string]int{}})
		defer up.Close()
		all := replicas(t, dsn, 2)
		p := &plant{t: t, process: all[0]}
		p.company(t)
		p.model(t, "up", "openai", up.URL, "witness-secret-0123456789")
		p.api(t, "PUT", "/detection/rules/"+selling+"/mode", map[string]any{"mode": "enforce"}, nil)
		for round := range rounds {
			dies, lives := all[round%2], all[1-round%2]
			p.process = lives
			r := p.rob(fmt.Sprintf("bot-%d", round))
			for n := range 1 + round%4 {
				sold(t.Context(), all[n%2], r, n)
			}
			dies.kill()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if !sell(ctx, r, 10, lives) {
				t.Fatalf("round %d: the key is not locked by who is left\n%s", round, tailOf(lives.stderr.Bytes()))
			}
			cancel()
			once(t, lives, fmt.Sprint("round ", round), r)
			all[round%2] = restarted(t, dies)
		}
	})
}

// restarted starts a server that was killed as it was started.
func restarted(t testing.TB, p *process) *process {
	t.Helper()
	env := map[string]string{}
	for _, kv := range p.cmd.Env {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}
	return start(t, env["COUNTERSIGN_DATA"], env["COUNTERSIGN_STORE"], p.token, "COUNTERSIGN_URL="+env["COUNTERSIGN_URL"], "COUNTERSIGN_LISTEN="+env["COUNTERSIGN_LISTEN"])
}
