package posture

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/tokens"
)

// mostSwept is how many records of the log, the newest, are searched for secrets.
const mostSwept = 20000

// swept is a text that was searched.
type swept struct {
	object, event string
	found         []string // names of secrets
}

func (x swept) look() verdict {
	v := verdict{object: x.object}
	if x.event != "" {
		v.events = []string{x.event}
	}
	if len(x.found) > 0 {
		v.bad = "the value of the secret " + strings.Join(x.found, ", ") + " stands in it"
	}
	return v
}

// brokered is a secret that calls are made with.
type brokered struct {
	name   string
	broken bool
	leaks  []string // events of open findings
	leaked bool
}

func (b brokered) look() verdict {
	v := verdict{object: "secret/" + b.name, events: b.leaks}
	switch {
	case b.leaked:
		v.bad = "it was found in the open and is not dealt with"
	case b.broken:
		v.bad = "it cannot be opened: its calls are not made with it"
	}
	return v
}

// sheltered is E3.
func (p *pass) sheltered() []Check {
	record := question{"record", "Does no text that was recorded or registered hold the value of a secret?", "texts", "no secret is kept here", "", "a text with a secret made up for this check"}
	canary := question{"redaction", "Is a secret replaced before anything is recorded?", "trials", "no secret is kept here", "", "a secret made up for this check, unredacted"}
	found := question{"found", "Was no secret found in the open?", "secrets", "no secret is kept here", "", "a secret that was found in the open"}
	all, err := p.s.o.Secrets.List(p.ctx)
	if err != nil {
		return []Check{failed(record, err), failed(canary, err), failed(found, err)}
	}
	if len(all) == 0 {
		return []Check{unasked(record, record.none), unasked(canary, canary.none), unasked(found, found.none)}
	}
	var rows []brokered
	leaks, err := p.open("credential.leaked")
	if err != nil {
		return []Check{failed(record, err), failed(canary, err), failed(found, err)}
	}
	for _, s := range all {
		events, leaked := leaks["secret/"+s.Name]
		rows = append(rows, brokered{s.Name, s.Broken, events, leaked})
	}
	out := p.sweep(record, canary)
	return append(out, judge(p, found, rows, brokered{name: "canary", leaked: true}, brokered.look))
}

// sweep looks for the values of secrets in the newest records with their
// payloads, and in what people register. A secret made up for it must be found in
// a text, and must not be found in the record of it.
func (p *pass) sweep(record, redaction question) []Check {
	value := []byte("posture-" + strings.ToLower(rand.Text()))
	p.s.o.Plant("posture canary", value)
	defer p.s.o.Plant("posture canary", nil)
	trap := swept{object: "canary", found: p.s.o.Known(append([]byte("a text with "), value...))}
	trial, err := p.trial(value)
	redacted := answer(p, redaction, []swept{trial}, err, trap, swept.look)
	rows, err := p.texts()
	return []Check{answer(p, record, rows, err, trap, swept.look), redacted}
}

// trial records the made-up secret and reads back what was kept of it.
func (p *pass) trial(value []byte) (swept, error) {
	ref, err := p.s.o.Log.Append(p.ctx, audit.Event{Type: Tried, Actor: audit.System, Object: "posture/E3", Reason: "a secret made up for posture: " + string(value)},
		audit.Payload{Name: "arguments", Body: append(append([]byte(`{"key":"`), value...), `"}`...), Level: audit.Full})
	if err != nil {
		return swept{}, err
	}
	rec, err := p.s.o.Log.Get(p.ctx, ref.ID)
	if err != nil {
		return swept{}, err
	}
	return swept{"event/" + ref.ID, ref.ID, p.in(rec)}, nil
}

// in returns the names of the secrets in a record and its payloads.
func (p *pass) in(rec audit.Record) []string {
	found := map[string]bool{}
	for _, n := range p.s.o.Known(rec.Raw) {
		found[n] = true
	}
	for _, body := range rec.Payloads {
		for _, n := range p.s.o.Known(body) {
			found[n] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (p *pass) texts() ([]swept, error) {
	var rows []swept
	q := audit.Query{Limit: perPage, Payloads: true}
	for len(rows) < mostSwept {
		recs, err := p.s.o.Log.List(p.ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range recs {
			rows = append(rows, swept{"event/" + r.Event.ID, r.Event.ID, p.in(r)})
		}
		if len(recs) < q.Limit {
			break
		}
		q.After = recs[len(recs)-1].Event.ID
	}
	text := func(object string, parts ...string) {
		rows = append(rows, swept{object: object, found: p.s.o.Known([]byte(strings.Join(parts, "\n")))})
	}
	for _, a := range p.s.o.Identity.Agents() {
		text("agent/"+a.Name, append([]string{a.Purpose, a.BusinessProcess}, slices.Collect(maps.Values(a.Labels))...)...)
	}
	for _, c := range p.s.o.Connections.Connections() {
		text("connection/"+c.Name, append(append(slices.Collect(maps.Values(c.Env)), c.Command...), c.URL, c.Description)...)
		for _, t := range p.s.o.Connections.Tools(c.Name) {
			text("tool/"+c.Name+"/"+t.Name, string(t.Definition), string(t.Drift))
		}
	}
	files, err := p.s.o.Policy.Files(p.ctx)
	for _, f := range files {
		text("policy/"+f.Name, f.Text)
	}
	return rows, err
}

// lasting is a credential with its life.
type lasting struct {
	object  string
	created time.Time
	expires time.Time     // zero: never
	most    time.Duration // it may live; 0: it does not end by itself but is replaced
	rotated time.Time     // when its value was last replaced
	age     time.Duration // after which it has to be
	gap     string
	now     time.Time
}

// slack is what clocks and rounding may make of a life.
const slack = time.Minute

func (l lasting) look() verdict {
	v := verdict{object: l.object, gap: l.gap}
	switch {
	case l.gap != "":
	case l.most > 0 && l.expires.IsZero():
		v.bad = "it never expires"
	case l.most > 0 && l.expires.Sub(l.created) > l.most+slack:
		v.bad = fmt.Sprintf("it lives for %s, longer than %s", days(l.expires.Sub(l.created)), days(l.most))
	case l.most == 0 && l.now.Sub(l.rotated) > l.age:
		v.bad = fmt.Sprintf("its value is %s old, older than %s", days(l.now.Sub(l.rotated)), days(l.age))
	}
	return v
}

func days(d time.Duration) string { return fmt.Sprintf("%.0f days", d.Hours()/24) }

// ending is E4.
func (p *pass) ending() []Check {
	ours := question{"credentials", "Does every live credential of ours end within policy?", "credentials", "no agent and no person has a credential that counts here", "", "a key that never expires"}
	values := question{"secrets", "Was the value of every secret replaced within policy?", "secrets", "no secret is kept here", "", "a secret that nobody replaced for years"}
	rows, err := p.credentials()
	first := answer(p, ours, rows, err, lasting{object: "canary", created: p.now, most: identity.KeyMost}, lasting.look)
	all, err := p.s.o.Secrets.List(p.ctx)
	if err != nil {
		return []Check{first, failed(values, err)}
	}
	age := p.s.o.SecretAge
	old := []lasting{}
	for _, s := range all {
		l := lasting{object: "secret/" + s.Name, rotated: s.Rotated, age: age, now: p.now}
		switch {
		case s.Source != "":
			l.gap = "it is kept at " + s.Source + ", where its age is not known"
		case !p.s.o.Secrets.NeedsValue(s.Spec): // what is made for each use ends by itself
			l.rotated = p.now
		}
		old = append(old, l)
	}
	return []Check{first, judge(p, values, old, lasting{object: "canary", rotated: p.now.Add(-10 * 365 * 24 * time.Hour), age: age, now: p.now}, lasting.look)}
}

// credentials lists what agents have, and the named tokens of people once there
// is an agent: the first administrator's token alone is no use of this product.
func (p *pass) credentials() ([]lasting, error) {
	var rows []lasting
	for _, a := range p.s.o.Identity.Agents() {
		if isGuest(a.Name) {
			continue
		}
		keys, err := p.s.o.Identity.Keys(p.ctx, a.Name)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if s := k.Status(p.now); s == identity.Active || s == identity.Rotating {
				rows = append(rows, lasting{object: "key/" + k.ID + " of agent/" + a.Name, created: k.Created, expires: k.Expires, most: identity.KeyMost})
			}
		}
		public, err := p.s.o.Tokens.ClientKeys(p.ctx, a.Name)
		if err != nil {
			return nil, err
		}
		for _, k := range public {
			if k.Status(p.now) == identity.Active {
				rows = append(rows, lasting{object: "client-key/" + k.ID + " of agent/" + a.Name, created: k.Created, expires: k.Expires, most: tokens.KeyMost})
			}
		}
	}
	if len(rows) == 0 {
		return nil, nil
	}
	for _, u := range p.s.o.Identity.Users() {
		held, err := p.s.o.Identity.Tokens(p.ctx, u.Name)
		if err != nil {
			return nil, err
		}
		for _, t := range held {
			if t.Status(p.now) == identity.Active {
				rows = append(rows, lasting{object: "token/" + t.ID + " of user/" + u.Name, created: t.Created, expires: t.Expires, most: identity.TokenMost})
			}
		}
	}
	return rows, nil
}
