package rotation_test

import (
	"encoding/json/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/rotation"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/providers"
)

// turn rotates a secret and lets time pass until everything is done.
func (w *world) turn(t *testing.T, name string, alive func() bool) {
	t.Helper()
	if _, err := w.Rotate(ctx, audit.System, "a test", name, false); err != nil {
		t.Fatal(err)
	}
	for range 6 {
		w.look(t)
		if !alive() {
			t.Fatalf("nothing authenticates at %+v", w.last(t, name))
		}
		w.pass(11 * time.Minute)
	}
	if r := w.last(t, name); r.Step != rotation.Done {
		t.Fatalf("%+v", r)
	}
}

// OpenAI makes keys itself and shows each once: if its answer is lost, a key is
// alive that nobody holds.
func TestOpenAIKeysWhoseAnswerWasLostAreDeleted(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db, same)
		o := providers.StartOpenAI(t, "sk-admin-8812")
		w.put(t, "admin", "sk-admin-8812", nil)
		w.put(t, "key", "sk-put-by-hand-1", map[string]string{"by": "openai", "project": "proj_1", "url": o.URL, "admin": "admin", "overlap": "10m", "allow_private": "true"})
		w.turn(t, "key", func() bool { return true })
		if found, _ := w.findings.List(ctx, findings.Query{Status: findings.Open, Rule: "secret.not_retired"}); len(found) != 1 {
			t.Errorf("nobody is told of the key that was put by hand: %+v", found)
		}
		alive := func() bool { return o.Accepts(w.value(t, "key")) }
		for _, method := range []string{"POST", "GET", "DELETE"} {
			for _, lose := range []bool{false, true} {
				former := w.value(t, "key")
				o.Set(method, lose, 2)
				w.turn(t, "key", alive)
				if o.Accepts(former) || o.Alive() != 1 {
					t.Errorf("%s, lost %v: the former works: %v; %d keys are alive", method, lose, o.Accepts(former), o.Alive())
				}
			}
		}
	})
}

// vendor is an API with tokens that are set, tried and deleted over HTTP.
type vendor struct {
	mu     sync.Mutex
	tokens []string
}

func (v *vendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	presented := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	var in struct {
		Token string `json:"token"`
		Note  string `json:"note"`
	}
	switch {
	case r.URL.Path == "/whoami":
		if !slices.Contains(v.tokens, presented) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	case presented != "vendors-admin-1":
		w.WriteHeader(http.StatusForbidden)
	case r.Method == http.MethodPut && json.UnmarshalRead(r.Body, &in) == nil && strings.HasPrefix(in.Note, "rot_"):
		if !slices.Contains(v.tokens, in.Token) {
			v.tokens = append(v.tokens, in.Token)
		}
	case r.Method == http.MethodPost && json.UnmarshalRead(r.Body, &in) == nil:
		v.tokens = []string{in.Token} // all others end
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (v *vendor) accepts(token string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Contains(v.tokens, token)
}

func TestGenericHTTP(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db, same)
		v := &vendor{tokens: []string{"the-first-token-1"}}
		s := httptest.NewServer(v)
		defer s.Close()
		w.put(t, "admin", "vendors-admin-1", nil)
		w.put(t, "key", "the-first-token-1", map[string]string{"by": "http", "admin": "admin", "overlap": "10m", "allow_private": "true",
			"set.url": s.URL + "/tokens", "set.method": "PUT", "set.body": `{"token": "{{pending}}", "note": "{{token}}"}`,
			"test.url": s.URL + "/whoami", "test.method": "GET", "retire.url": s.URL + "/only", "retire.body": `{"token": "{{current}}"}`})
		for range 2 {
			former := w.value(t, "key")
			w.turn(t, "key", func() bool { return v.accepts(w.value(t, "key")) })
			if v.accepts(former) || len(v.tokens) != 1 {
				t.Errorf("%d tokens are alive", len(v.tokens))
			}
		}
		for name, bad := range map[string]map[string]string{
			"nothing to do":    {},
			"secret in a URL":  {"set.url": "https://x/{{pending}}"},
			"host put in":      {"set.url": "https://{{secret}}.example/x"},
			"no JSON":          {"set.url": "https://x/", "set.body": `{"a": `},
			"unknown name":     {"set.url": "https://x/", "set.body": `{"a": "{{admin}}"}`},
			"unknown setting":  {"set.url": "https://x/", "colour": "red"},
			"half a creation":  {"create.url": "https://x/"},
			"without TLS":      {"set.url": "http://vendor.example/"},
			"a secret in auth": {"set.url": "https://x/", "auth": "{{current}}"},
		} {
			bad["by"] = "http"
			spec, _ := w.secrets.Secret("key")
			spec.Rotation = bad
			if _, err := w.secrets.Put(ctx, audit.System, "because", spec.Spec, secrets.Value{}); err == nil {
				t.Errorf("%s was taken", name)
			}
		}
	})
}
