package passkeys_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/passkeys"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/passkey"
)

var ctx = context.Background()

type plain struct{}

func (plain) Redact(b []byte) []byte { return b }

const password = "correct horse battery"

// what a browser on the server's own pages says.
var honest = passkey.Signing{RP: "countersign.example", Origin: "https://countersign.example", Flags: 0x05}

type world struct {
	*passkeys.Service
	t       *testing.T
	db      *storage.DB
	log     *audit.Log
	ids     *identity.Service
	session map[string]string

	mu  sync.Mutex
	now time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) by(name string) audit.Actor {
	w.t.Helper()
	u, ok := w.ids.User(name)
	if !ok {
		w.t.Fatalf("no user %s", name)
	}
	return audit.Person(u.ID, u.Name)
}

// each gives a world where fiona and root are signed in.
func each(t *testing.T, fn func(w *world)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := &world{t: t, db: db, now: time.Now().UTC().Truncate(time.Microsecond), session: map[string]string{}}
		var err error
		w.log, err = audit.Open(ctx, db, audit.Options{Redactor: plain{}, Keeper: audittest.Keeper("k")})
		w.must(err)
		t.Cleanup(func() { w.log.Close(ctx) })
		watch := storage.NewWatcher(db, slog.New(slog.DiscardHandler))
		w.ids, err = identity.New(db, w.log, watch, identity.Options{Derive: func(label string) []byte { s := sha256.Sum256([]byte(label)); return s[:] }})
		w.must(err)
		w.must(watch.Start(ctx))
		t.Cleanup(watch.Stop)
		w.Service = w.at("https://countersign.example/")
		for name, role := range map[string]string{"root": "admin", "fiona": "approver"} {
			_, err := w.ids.PutUser(ctx, audit.System, "test", identity.User{Name: name, Role: role})
			w.must(err)
			w.must(w.ids.SetPassword(ctx, audit.System, "test", name, "", password))
			s, _, err := w.ids.Login(ctx, name, password, "")
			w.must(err)
			w.session[name] = s.ID
		}
		fn(w)
	})
}

// at is the room of a server that browsers reach at url.
func (w *world) at(url string) *passkeys.Service {
	w.t.Helper()
	s, err := passkeys.New(passkeys.Options{DB: w.db, Log: w.log, Identity: w.ids, URL: func() string { return url }, Now: w.clock})
	w.must(err)
	return s
}

func (w *world) begin(name string) []byte {
	w.t.Helper()
	r, err := w.Begin(ctx, w.by(name), w.session[name])
	w.must(err)
	return r.Challenge
}

func (w *world) add(name string, a *passkey.Authenticator) passkeys.Passkey {
	w.t.Helper()
	p, err := w.Register(ctx, w.by(name), w.session[name], name+"'s", a.Make(w.begin(name), honest))
	w.must(err)
	return p
}

func (w *world) events(kind audit.Type) []audit.Event {
	w.t.Helper()
	recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{kind}, Limit: 20})
	w.must(err)
	var out []audit.Event
	for _, r := range recs {
		out = append(out, r.Event)
	}
	return out
}

func TestAPersonRegistersRenamesAndRemoves(t *testing.T) {
	each(t, func(w *world) {
		a := passkey.New()
		p := w.add("fiona", a)
		if p.Credential != passkey.B64(a.ID) || string(p.Key) != string(a.COSE()) || p.User != "fiona" || !p.Created.Equal(w.clock()) {
			t.Errorf("%+v", p)
		}
		if e := w.events("user.passkey_added"); len(e) != 1 || e[0].Object != "user/fiona" || e[0].Actor.Name != "fiona" || !strings.Contains(string(e[0].Detail), p.ID) {
			t.Errorf("%+v", e)
		}
		if p, err := w.Rename(ctx, w.by("fiona"), p.ID, "  laptop "); err != nil || p.Name != "laptop" || len(w.events("user.passkey_renamed")) != 1 {
			t.Errorf("%v %+v", err, p)
		}
		for name, err := range map[string]error{
			"no name":  second(w.Rename(ctx, w.by("fiona"), p.ID, " ")),
			"too long": second(w.Rename(ctx, w.by("fiona"), p.ID, strings.Repeat("ä", 61))),
			"a line":   second(w.Rename(ctx, w.by("fiona"), p.ID, "a\nb")),
		} {
			if !errors.Is(err, passkeys.ErrName) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// Nobody names another's; who governs ends it.
		if _, err := w.Rename(ctx, w.by("root"), p.ID, "mine"); !errors.Is(err, passkeys.ErrNotFound) {
			t.Errorf("%v", err)
		}
		b := w.add("root", passkey.New())
		if err := w.Remove(ctx, w.by("fiona"), "", b.ID); !errors.Is(err, passkeys.ErrNotFound) {
			t.Errorf("%v", err)
		}
		if err := w.Remove(ctx, w.by("root"), strings.Repeat("x", 1001), p.ID); !errors.Is(err, passkeys.ErrReason) {
			t.Errorf("%v", err)
		}
		w.must(w.Remove(ctx, w.by("root"), "lost", p.ID))
		if found, err := w.Of(ctx, "fiona"); err != nil || len(found) != 0 {
			t.Errorf("%v %v", err, found)
		}
		if e := w.events("user.passkey_removed"); len(e) != 1 || e[0].Actor.Name != "root" || e[0].Reason != "lost" || e[0].Object != "user/fiona" {
			t.Errorf("%+v", e)
		}
		if err := w.Remove(ctx, w.by("fiona"), "", p.ID); !errors.Is(err, passkeys.ErrNotFound) {
			t.Errorf("%v", err)
		}
		w.must(w.Remove(ctx, w.by("root"), "", b.ID))
	})
}

func second[T any](_ T, err error) error { return err }

func TestWhatIsNoRegistrationIsRefused(t *testing.T) {
	each(t, func(w *world) {
		asked := w.begin("fiona")
		refuse := func(name string, made []byte, want error) {
			t.Helper()
			if _, err := w.Register(ctx, w.by("fiona"), w.session["fiona"], "laptop", made); !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, how := range map[string]func(*passkey.Signing){
			"another domain": func(s *passkey.Signing) { s.RP = "evil.example" }, "another page": func(s *passkey.Signing) { s.Origin = "https://evil.example" },
			"the same page without TLS": func(s *passkey.Signing) { s.Origin = "http://countersign.example" },
			"a signature":               func(s *passkey.Signing) { s.Type = "webauthn.get" }, "nobody verified": func(s *passkey.Signing) { s.Flags = 0x01 }, "nobody there": func(s *passkey.Signing) { s.Flags = 0x04 },
			"two challenges": func(s *passkey.Signing) { s.Extra = `,"challenge":"AAAA"` },
		} {
			bad := honest
			how(&bad)
			refuse(name, passkey.New().Make(asked, bad), passkeys.ErrRefused)
		}
		a := passkey.New()
		client := []byte(`{"type":"webauthn.create","challenge":"` + passkey.B64(asked) + `","origin":"https://countersign.example"}`)
		for name, object := range map[string][]byte{"no CBOR": []byte("hello"), "nothing": {}, "an empty map": {0xa0}, "CBOR that ends early": {0xa3, 0x63, 'f'}, "nested without end": []byte(strings.Repeat("\x81", 4000)), "a huge length": {0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
			refuse(name, a.Wrap(client, object), passkeys.ErrRefused)
		}
		refuse("no JSON", []byte("{"), passkeys.ErrRefused)
		refuse("too long", []byte(`{"id":"`+strings.Repeat("a", 20000)+`"}`), passkeys.ErrRefused)
		refuse("what nobody asked", a.Make([]byte("sixteen bytes or more of it"), honest), passkeys.ErrChallenge)
		good := a.Make(asked, honest)
		if _, err := w.Register(ctx, w.by("root"), w.session["root"], "x", good); !errors.Is(err, passkeys.ErrChallenge) {
			t.Errorf("another's: %v", err)
		}
		if _, err := w.Register(ctx, w.by("fiona"), w.session["root"], "x", good); !errors.Is(err, passkeys.ErrSession) {
			t.Errorf("another's session: %v", err)
		}
		if _, err := w.Register(ctx, w.by("fiona"), w.session["fiona"], "", good); !errors.Is(err, passkeys.ErrName) {
			t.Errorf("no name: %v", err)
		}
		refuse("good", good, nil)
		refuse("replayed", good, passkeys.ErrChallenge)
		refuse("the same again", a.Make(w.begin("fiona"), honest), passkeys.ErrTaken)
		late := w.begin("fiona")
		w.pass(2 * time.Minute)
		refuse("too late", passkey.New().Make(late, honest), passkeys.ErrChallenge)
		// What is asked for a decision registers nothing.
		nonce := []byte("a challenge that a decision asks for")
		w.must(w.Ask(ctx, w.by("fiona").ID, w.session["fiona"], nonce, nonce))
		refuse("asked for something else", passkey.New().Make(nonce, honest), passkeys.ErrChallenge)
	})
}

// A token for programs, which may lie about in files, registers no passkey; a
// session that ended neither.
func TestOnlyASessionRegisters(t *testing.T) {
	each(t, func(w *world) {
		fiona := w.by("fiona")
		token, _, err := w.ids.IssueToken(ctx, fiona, "", "a program", time.Hour)
		w.must(err)
		for name, credential := range map[string]string{"a token": token.ID, "nothing": "", "another's session": w.session["root"]} {
			if _, err := w.Begin(ctx, fiona, credential); !errors.Is(err, passkeys.ErrSession) {
				t.Errorf("%s: %v", name, err)
			}
		}
		asked := w.begin("fiona")
		began := w.now
		w.now = began.Add(16 * time.Minute)
		if _, err := w.Begin(ctx, fiona, w.session["fiona"]); !errors.Is(err, passkeys.ErrStale) {
			t.Errorf("an old session: %v", err)
		}
		if _, err := w.Register(ctx, fiona, w.session["fiona"], "x", passkey.New().Make(asked, honest)); !errors.Is(err, passkeys.ErrStale) {
			t.Errorf("a session that grew old: %v", err)
		}
		w.now = began
		w.must(w.ids.RevokeToken(ctx, fiona, "", w.session["fiona"]))
		if _, err := w.Register(ctx, fiona, w.session["fiona"], "x", passkey.New().Make(asked, honest)); !errors.Is(err, passkeys.ErrSession) {
			t.Errorf("%v", err)
		}
	})
}

func TestOnePersonHasSoMany(t *testing.T) {
	each(t, func(w *world) {
		for range 20 {
			w.add("fiona", passkey.New())
		}
		if _, err := w.Begin(ctx, w.by("fiona"), w.session["fiona"]); !errors.Is(err, passkeys.ErrMany) {
			t.Errorf("%v", err)
		}
	})
}

// An authenticator that does not count says 0 always; one that does may not
// go back.
func TestCountsGrow(t *testing.T) {
	each(t, func(w *world) {
		p := w.add("fiona", passkey.New())
		use := func(user string, count uint32, want error) {
			t.Helper()
			err := w.log.Change(ctx, func(tx *audit.Tx) error {
				if err := w.Used(ctx, tx, w.by(user).ID, p.Credential, count); err != nil {
					return err
				}
				tx.Record(audit.Event{Type: "user.updated", Actor: audit.System, Object: "user/fiona"})
				return nil
			})
			if !errors.Is(err, want) {
				t.Errorf("%d: %v", count, err)
			}
		}
		use("fiona", 0, nil)
		use("fiona", 0, nil)
		use("fiona", 7, nil)
		use("fiona", 7, passkeys.ErrCopied)
		use("fiona", 0, passkeys.ErrCopied)
		use("root", 9, passkeys.ErrNotFound)
		use("fiona", 8, nil)
	})
}

func TestADeletedPersonLeavesNoPasskey(t *testing.T) {
	each(t, func(w *world) {
		p := w.add("fiona", passkey.New())
		id := w.by("fiona").ID
		w.must(w.ids.DeleteUser(ctx, w.by("root"), "left", "fiona"))
		if keys, err := w.Keys(ctx, id); err != nil || keys[p.Credential] != nil {
			t.Errorf("%v %v", err, keys)
		}
	})
}

func TestThePartyIsWhereBrowsersReachTheServer(t *testing.T) {
	for url, want := range map[string][2]string{
		"https://countersign.example":       {"countersign.example", "https://countersign.example"},
		"https://Countersign.Example:443/x": {"countersign.example", "https://countersign.example"},
		"https://countersign.example:8443":  {"countersign.example", "https://countersign.example:8443"},
		"http://127.0.0.1:7470":             {"localhost", "http://localhost:7470"},
		"http://[::1]:7470":                 {"localhost", "http://localhost:7470"},
		"http://10.0.0.1:7470":              {"", ""},
		"":                                  {"", ""},
		"ftp://countersign.example":         {"", ""},
	} {
		s, err := passkeys.New(passkeys.Options{DB: &storage.DB{}, Log: &audit.Log{}, Identity: &identity.Service{}, URL: func() string { return url }})
		if err != nil {
			t.Fatal(err)
		}
		if domain, origin := s.Party(); domain != want[0] || origin != want[1] {
			t.Errorf("%s: %s %s", url, domain, origin)
		}
		if want[0] == "" {
			if _, err := s.Begin(ctx, audit.Person("usr_1", "x"), "tok_1"); !errors.Is(err, passkeys.ErrOff) {
				t.Errorf("%s: %v", url, err)
			}
		}
	}
}
