package identity_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var quiet = slog.New(slog.DiscardHandler)

func TestKeyNamesItsAgentAndOwner(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		k, value := w.key(0)
		if !strings.HasPrefix(value, "csk_") || value[:10] != k.Prefix || !k.Expires.Equal(w.clock.now().Add(identity.KeyUsual)) {
			t.Errorf("key %+v", k)
		}
		c, err := w.present(value)
		if err != nil {
			t.Fatal(err)
		}
		if c.Agent.Name != "bot" || c.Agent.Labels["tier"] != "1" || c.Owner.Name != "ada" || c.Credential.ID != k.ID || c.Credential.Kind != identity.KindKey || c.Run != "" {
			t.Errorf("caller %+v", c)
		}
	})
}

func TestRunTokenNamesItsRun(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r, token := w.run(0)
		for range 2 { // the second time from memory
			c, err := w.present(token)
			if err != nil {
				t.Fatal(err)
			}
			if c.Agent.Name != "bot" || c.Run != r.ID || c.Credential.ID != r.Credential || c.Credential.Kind != identity.KindRun || !c.Credential.Expires.Equal(w.clock.now().Add(time.Hour)) {
				t.Errorf("caller %+v", c)
			}
		}
		w.clock.pass(time.Hour - time.Second)
		w.accepts("a second before its end", token)
		w.clock.pass(time.Second)
		w.refuses("at its end", token, identity.ErrExpired)
	})
}

func TestCredentialsOfTheWrongForm(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, key := w.key(0)
		_, run := w.run(0)
		other := last(key, 1)
		for what, credential := range map[string]string{
			"empty":                   "",
			"a word":                  "password",
			"prefix only":             "csk_",
			"wrong prefix":            "csx_" + key[4:],
			"user token's prefix":     "csu_" + key[4:],
			"bad checksum":            key[:len(key)-1] + other,
			"changed in the middle":   key[:20] + last(key[:21], 1) + key[21:],
			"truncated":               key[:len(key)-1],
			"with a tail":             key + "0",
			"with a space":            key + " ",
			"with a line break":       key + "\n",
			"upper case":              strings.ToUpper(key),
			"not base 62":             key[:20] + "-" + key[21:],
			"never issued, right sum": mintLike("csk_"),
			"its digest":              hex.EncodeToString(sum(key)),
			"huge":                    strings.Repeat("csk_", 1<<18),
			"huge and dotted":         "eyJ" + strings.Repeat("A", 1<<20) + "..",
			"dots":                    "eyJ..",
			"run without signature":   run[:strings.LastIndex(run, ".")+1],
			"run truncated":           run[:len(run)-1],
			"run with a tail":         run + "A",
			"run with a fourth part":  run + ".AAAA",
			"run padded":              run + "=",
		} {
			if c, err := w.present(credential); !errors.Is(err, identity.ErrCredential) || c.Agent.Name != "" {
				t.Errorf("%s: %v %v", what, c.Agent.Name, err)
			}
		}
		if identity.WellFormed("csk_", key[:len(key)-1]+other) || identity.WellFormed("csk_", key[:20]+last(key[:21], 1)+key[21:]) || !identity.WellFormed("csk_", key) {
			t.Error("the checksum does not tell a mistyped key")
		}
		w.accepts("the key itself", key)
		w.accepts("the run itself", run)
	})
}

func sum(s string) []byte { d := sha256.Sum256([]byte(s)); return d[:] }

// last returns another character than s ends with.
func last(s string, n int) string {
	if strings.HasSuffix(s, "A") {
		return strings.Repeat("B", n)
	}
	return strings.Repeat("A", n)
}

// mintLike returns a well-formed credential that nobody issued.
func mintLike(prefix string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	body := prefix + strings.Repeat("7", 43)
	// The checksum is public: anyone can compute it.
	crc := crc32.ChecksumIEEE([]byte(body))
	out := make([]byte, 6)
	for i := 5; i >= 0; i-- {
		out[i] = digits[crc%62]
		crc /= 62
	}
	return body + string(out)
}

// forge signs claims as it pleases.
type forge struct {
	header, claims map[string]any
	sign           func(input []byte) []byte
}

func (f forge) token(t *testing.T) string {
	t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	input := part(f.header) + "." + part(f.claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(f.sign([]byte(input)))
}

func signer(server string) (ed25519.PrivateKey, string) {
	k := ed25519.NewKeyFromSeed(derive(server)("identity/run-token/v1"))
	return k, hex.EncodeToString(sum(string(k.Public().(ed25519.PublicKey)))[:8])
}

func TestForgedRunTokens(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		private, kid := signer("one")
		public := []byte(private.Public().(ed25519.PublicKey))
		foreign, foreignKid := signer("two")
		eddsa := func(k ed25519.PrivateKey) func([]byte) []byte {
			return func(in []byte) []byte { s, _ := k.Sign(nil, in, crypto.Hash(0)); return s }
		}
		hs256 := func(key []byte) func([]byte) []byte {
			return func(in []byte) []byte { m := hmac.New(sha256.New, key); m.Write(in); return m.Sum(nil) }
		}
		nothing := func([]byte) []byte { return nil }
		bot, _ := w.Agent("bot")
		now := w.clock.now().Unix()
		make := func(change func(h, c map[string]any)) forge {
			h := map[string]any{"alg": "EdDSA", "typ": "cs-run+jwt", "kid": kid}
			c := map[string]any{"iss": "countersign", "sub": "bot", "agent_id": bot.ID, "run": "run_01jdabcdefghjkmnpqrstvwxyz", "jti": "rtk_x", "iat": now, "exp": now + 3600}
			change(h, c)
			return forge{h, c, eddsa(private)}
		}
		w.accepts("the form itself", make(func(h, c map[string]any) {}).token(t))
		with := func(f forge, sign func([]byte) []byte) forge { f.sign = sign; return f }
		for what, f := range map[string]forge{
			"alg none":               with(make(func(h, c map[string]any) { h["alg"] = "none" }), nothing),
			"alg None":               with(make(func(h, c map[string]any) { h["alg"] = "None" }), nothing),
			"alg none, signed":       make(func(h, c map[string]any) { h["alg"] = "none" }),
			"HS256 of the public":    with(make(func(h, c map[string]any) { h["alg"] = "HS256" }), hs256(public)),
			"HS256 said to be EdDSA": with(make(func(h, c map[string]any) {}), hs256(public)),
			"other alg":              make(func(h, c map[string]any) { h["alg"] = "ES256" }),
			"no signature":           with(make(func(h, c map[string]any) {}), nothing),
			"another server's key":   with(make(func(h, c map[string]any) { h["kid"] = foreignKid }), eddsa(foreign)),
			"another's, our kid":     with(make(func(h, c map[string]any) {}), eddsa(foreign)),
			"no kid":                 make(func(h, c map[string]any) { delete(h, "kid") }),
			"another type":           make(func(h, c map[string]any) { h["typ"] = "JWT" }),
			"no type":                make(func(h, c map[string]any) { delete(h, "typ") }),
			"embedded key": with(make(func(h, c map[string]any) {
				h["jwk"] = map[string]any{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(foreign.Public().(ed25519.PublicKey))}
			}), eddsa(foreign)),
			"critical header":  make(func(h, c map[string]any) { h["crit"] = []string{"x"}; h["x"] = 1 }),
			"another issuer":   make(func(h, c map[string]any) { c["iss"] = "evil" }),
			"unknown agent":    make(func(h, c map[string]any) { c["sub"] = "nobody" }),
			"no agent":         make(func(h, c map[string]any) { delete(c, "sub") }),
			"an agent of old":  make(func(h, c map[string]any) { c["agent_id"] = "agt_old" }),
			"no agent id":      make(func(h, c map[string]any) { delete(c, "agent_id") }),
			"no run":           make(func(h, c map[string]any) { delete(c, "run") }),
			"run of some form": make(func(h, c map[string]any) { c["run"] = "../../x" }),
			"no identifier":    make(func(h, c map[string]any) { delete(c, "jti") }),
			"too long a life":  make(func(h, c map[string]any) { c["exp"] = now + 13*3600 }),
			"no expiry":        make(func(h, c map[string]any) { delete(c, "exp") }),
			"expiry as text":   make(func(h, c map[string]any) { c["exp"] = "tomorrow" }),
			"of the future":    make(func(h, c map[string]any) { c["iat"] = now + 600; c["exp"] = now + 1200 }),
		} {
			if _, err := w.present(f.token(t)); !errors.Is(err, identity.ErrCredential) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func TestWhoMayNotCall(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		k, key := w.key(time.Hour)
		r, run := w.run(time.Hour)
		both := func(what string, want error) {
			t.Helper()
			for _, credential := range []string{key, run} {
				c, err := w.present(credential)
				if !errors.Is(err, want) {
					t.Errorf("%s: got %v, want %v", what, err, want)
				}
				if want != nil && c.Agent.Name != "bot" {
					t.Errorf("%s: the log would not know that it was bot", what)
				}
			}
		}
		both("at first", nil)

		_, err := w.Suspend(ctx, w.admin, "odd calls", "bot")
		w.must(err)
		both("suspended", identity.ErrSuspended)
		_, err = w.Resume(ctx, w.admin, "explained", "bot")
		w.must(err)
		both("resumed", nil)

		_, err = w.PutUser(ctx, w.admin, "left", identity.User{Name: "ada", Role: identity.Owner, Disabled: true})
		w.must(err)
		both("owner disabled", identity.ErrNoOwner)
		_, err = w.SetOwner(ctx, w.admin, "ada left", "bot", "bob", "")
		w.must(err)
		both("new owner", nil)

		w.must(w.RevokeKey(ctx, w.admin, "leaked", k.ID))
		w.must(w.EndRun(ctx, w.admin, "done", r.ID))
		both("revoked", identity.ErrRevoked)
		w.clock.pass(2 * time.Hour)
		both("revoked and expired", identity.ErrRevoked)

		_, key = w.key(time.Hour)
		_, run = w.run(time.Hour)
		w.clock.pass(time.Hour)
		both("expired", identity.ErrExpired)
	})
}

func TestAgentMadeAgainDoesNotInheritCredentials(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, key := w.key(0)
		_, run := w.run(0)
		w.accepts("run", run)
		w.must(w.DeleteAgent(ctx, w.admin, "over", "bot"))
		w.refuses("key of a deleted agent", key, identity.ErrCredential)
		w.refuses("run of a deleted agent", run, identity.ErrCredential)
		_, err := w.PutAgent(ctx, w.admin, "again", identity.Agent{Name: "bot", Owner: "ada", Stage: identity.Staging})
		w.must(err)
		w.refuses("key of an agent of old", key, identity.ErrCredential)
		w.refuses("run of an agent of old", run, identity.ErrCredential)
	})
}

func TestMissingOwnerIsRefused(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db := storagetest.Open(t, dsn)
		w := settle(t, db)
		_, key := w.key(0)
		_, run := w.run(0)
		removeOwner(t, db, dsn)
		w.refuses("key", key, identity.ErrNoOwner)
		w.refuses("run", run, identity.ErrNoOwner)
		if _, _, err := w.StartRun(ctx, w.admin, "", "bot", 0); !errors.Is(err, identity.ErrNoOwner) {
			t.Errorf("a run was started: %v", err)
		}
	})
}

// removeOwner does what no verb can and foreign keys forbid.
func removeOwner(t *testing.T, db *storage.DB, dsn string) {
	t.Helper()
	statements := []string{`DELETE FROM users WHERE name = 'ada'`, `UPDATE versions SET version = version + 1 WHERE name = 'identity'`}
	driver := "sqlite" // a connection of its own does not enforce them
	if db.Dialect() == storage.Postgres {
		driver = "pgx"
		statements = append([]string{`ALTER TABLE agents DROP CONSTRAINT agents_owner_fkey`}, statements...)
	}
	raw, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, q := range statements {
		if _, err := raw.ExecContext(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRotationOverlaps(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		k, old := w.key(0)
		next, value, err := w.RotateKey(ctx, w.admin, "monthly", k.ID, 0, 0)
		w.must(err)
		w.accepts("old at once", old)
		w.accepts("new at once", value)
		if _, _, err := w.RotateKey(ctx, w.admin, "again", k.ID, 0, 0); !errors.Is(err, identity.ErrInactive) {
			t.Errorf("a rotated key was rotated: %v", err)
		}
		w.clock.pass(24*time.Hour - time.Microsecond)
		w.accepts("old at the end of the overlap", old)
		w.clock.pass(time.Microsecond)
		w.refuses("old after the overlap", old, identity.ErrExpired)
		w.accepts("new after the overlap", value)

		third, _, err := w.RotateKey(ctx, w.admin, "leaked", next.ID, identity.NoOverlap, time.Hour)
		w.must(err)
		w.refuses("without overlap", value, identity.ErrExpired)

		w.clock.pass(30 * time.Minute)
		_, _, err = w.RotateKey(ctx, w.admin, "", third.ID, 0, 0)
		w.must(err)
		keys, err := w.Keys(ctx, "bot")
		w.must(err)
		if got := keys[2].Expires; !got.Equal(third.Expires) {
			t.Errorf("an overlap prolonged a key from %v to %v", third.Expires, got)
		}
		for _, d := range []time.Duration{-5, identity.OverlapMost + 1} {
			if _, _, err := w.RotateKey(ctx, w.admin, "", keys[3].ID, d, 0); !errors.Is(err, identity.ErrInvalid) {
				t.Errorf("overlap %v: %v", d, err)
			}
		}
		for _, d := range []time.Duration{-1, identity.KeyMost + 1} {
			if _, _, err := w.IssueKey(ctx, w.admin, "", "bot", d); !errors.Is(err, identity.ErrInvalid) {
				t.Errorf("life %v: %v", d, err)
			}
		}
	})
}

func TestOfConcurrentRotationsOneWins(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		k, _ := w.key(0)
		var won atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				switch _, _, err := w.RotateKey(ctx, w.admin, "race", k.ID, 0, 0); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, identity.ErrInactive):
					t.Errorf("lost with %v", err)
				}
			})
		}
		wg.Wait()
		keys, err := w.Keys(ctx, "bot")
		w.must(err)
		if won.Load() != 1 || len(keys) != 2 {
			t.Errorf("%d won, %d keys", won.Load(), len(keys))
		}
	})
}

func TestAnotherReplicaSeesARevocation(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		other := join(t, w.db, w.log, w.clock)
		k, key := w.key(0)
		r, run := w.run(0)
		other.accepts("key", key)
		other.accepts("run", run)
		w.must(w.RevokeKey(ctx, w.admin, "", k.ID))
		w.must(w.EndRun(ctx, w.admin, "", r.ID))
		other.refuses("key", key, identity.ErrRevoked)
		other.refuses("run", run, identity.ErrRevoked)
	})
}

func TestStaleViewRefuses(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, key := w.key(0)
		_, run := w.run(0)
		watch := storage.NewWatcher(w.db, quiet) // has never looked
		blind, err := identity.New(w.db, w.log, watch, identity.Options{Derive: derive("one"), Now: w.clock.now})
		w.must(err)
		for _, credential := range []string{key, run} {
			if _, err := blind.Authenticate(ctx, credential); !errors.Is(err, identity.ErrStale) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestNoCredentialIsKept(t *testing.T) {
	dsn := storagetest.SQLite(t)
	w := settle(t, storagetest.Open(t, dsn))
	_, key := w.key(0)
	_, run := w.run(0)
	admin := audit.Person(w.admin.ID, "root")
	_, token, err := w.IssueToken(ctx, admin, "", "test", 0)
	w.must(err)
	w.must(w.SetPassword(ctx, w.admin, "", "ada", "", "correct horse battery"))
	w.must(w.log.Close(ctx))
	files, err := filepath.Glob(filepath.Dir(dsn) + "/*")
	w.must(err)
	seen := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		w.must(err)
		seen += strings.Count(string(b), key[:10])
		for what, secret := range map[string]string{"key": key, "run token": run, "user token": token, "password": "correct horse battery"} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s holds the %s", f, what)
			}
		}
	}
	if seen == 0 {
		t.Error("the key's prefix is not there either: the search looked in the wrong place")
	}
}
