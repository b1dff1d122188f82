package bundle

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit/tlog"
)

// The types of the events that a bundle's proofs are of.
const (
	KeyEvent = "evidence.key_made"
	RunEvent = "posture.evaluated"
)

// Shown is what verifying a bundle has shown.
type Shown struct {
	Exported time.Time      `json:"exported"`
	Origin   string         `json:"origin"`  // of the log
	Key      string         `json:"key"`     // of evidence, as the log says
	Trusted  bool           `json:"trusted"` // the log's key was known from elsewhere
	Files    []string       `json:"files"`
	Evidence int            `json:"evidence"` // results, each with its event in the log
	Results  map[string]int `json:"results"`
}

// record is what is read of an event.
type record struct {
	ID     string         `json:"id"`
	Type   string         `json:"type"`
	Detail jsontext.Value `json:"detail"`
}

// Opened is a bundle of which every byte is as it was signed.
type Opened struct {
	Shown
	parts []part
}

// File returns a file of the bundle.
func (o *Opened) File(name string) ([]byte, bool) {
	b, _, ok := body(o.parts, name)
	return b, ok
}

// Wrong returns an *Error about a file of the bundle.
func (o *Opened) Wrong(name, why string) error {
	_, p, _ := body(o.parts, name)
	return &Error{name, p.from, p.to, why}
}

// Open verifies that no byte of a bundle was changed, by the log's key, its first
// or a later one. Without a key the bundle's own is taken, and only that it belongs
// together is shown. What its files say is for the caller to look at.
func Open(b []byte, key string) (*Opened, error) {
	if len(b) > maxSize {
		return nil, fmt.Errorf("it is larger than %d bytes", int64(maxSize))
	}
	parts, err := split(b)
	if err != nil {
		return nil, err
	}
	if len(parts) < 3 {
		return nil, &Error{From: 0, To: int64(len(b)), Message: "it is no bundle"}
	}
	s, err := keyOf(parts, key)
	if err != nil {
		return nil, err
	}
	v, err := tlog.ParseKey(s.Key)
	if err != nil {
		return nil, err
	}
	text, err := signed(parts, v)
	if err != nil {
		return nil, err
	}
	if s.Exported, err = listed(b, parts, text); err != nil {
		return nil, err
	}
	for _, p := range parts {
		s.Files = append(s.Files, p.Name)
	}
	return &Opened{s, parts}, nil
}

// Verify verifies a bundle of evidence by the log's key, as Open does, and that
// each result in it is the one that its run recorded. An *Error says where it is
// not what was written.
func Verify(b []byte, key string) (Shown, error) {
	o, err := Open(b, key)
	if err != nil {
		return Shown{}, err
	}
	return o.Shown, o.results(o.parts, key)
}

// keyOf returns the key that the log says signs evidence.
func keyOf(parts []part, key string) (s Shown, err error) {
	raw, p, ok := body(parts, KeyProof)
	if !ok {
		return s, &Error{File: KeyProof, Message: "it is missing"}
	}
	bad := func(why string) error { return &Error{KeyProof, p.from, p.to, why} }
	shown, err := tlog.VerifyProof(raw, tlog.Trust{Key: key})
	if err != nil {
		return s, bad("it does not show, by the log's key, which key signs evidence: " + err.Error())
	}
	var ev record
	var d struct {
		Key string `json:"key"`
	}
	if json.Unmarshal([]byte(shown.Record), &ev) != nil || ev.Type != KeyEvent || json.Unmarshal(ev.Detail, &d) != nil || d.Key == "" {
		return s, bad("it is of another event")
	}
	return Shown{Origin: shown.Origin, Trusted: shown.Trusted, Key: d.Key, Results: map[string]int{}}, nil
}

// results looks whether every result is the one that its run recorded.
func (s *Shown) results(parts []part, key string) error {
	raw, p, ok := body(parts, Evidence)
	if !ok {
		return &Error{File: Evidence, Message: "it is missing"}
	}
	var doc struct {
		Evidence []map[string]jsontext.Value `json:"evidence"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return &Error{Evidence, p.from, p.to, "it cannot be read: " + err.Error()}
	}
	runs := map[string]map[string]string{} // event -> evidence -> digest
	for _, f := range parts {
		if f.Name == KeyProof || !strings.HasPrefix(f.Name, "proofs/") {
			continue
		}
		event, digests, err := run(f, key)
		if err != nil {
			return err
		}
		runs[event] = digests
	}
	for _, e := range doc.Evidence {
		var id, event, result string
		for name, to := range map[string]*string{"id": &id, "event": &event, "result": &result} {
			if json.Unmarshal(e[name], to) != nil {
				return &Error{Evidence, p.from, p.to, "a result has no " + name}
			}
		}
		digest, err := Digest(e)
		if err != nil {
			return &Error{Evidence, p.from, p.to, err.Error()}
		}
		if want := runs[event][id]; want == "" || want != digest {
			return &Error{Evidence, p.from, p.to, "the log does not say that " + id + " was the result of its run"}
		}
		s.Evidence++
		s.Results[result]++
	}
	return nil
}

// run reads the digests out of the proven event of a run.
func run(f part, key string) (event string, digests map[string]string, err error) {
	bad := func(why string) (string, map[string]string, error) {
		return "", nil, &Error{f.Name, f.from, f.to, why}
	}
	shown, err := tlog.VerifyProof(f.Body, tlog.Trust{Key: key})
	if err != nil {
		return bad("it proves nothing: " + err.Error())
	}
	var ev record
	var d struct {
		Results []struct {
			Evidence string `json:"evidence"`
			Digest   string `json:"digest"`
		} `json:"results"`
	}
	if json.Unmarshal([]byte(shown.Record), &ev) != nil || ev.Type != RunEvent || json.Unmarshal(ev.Detail, &d) != nil {
		return bad("it is of another event")
	}
	digests = map[string]string{}
	for _, r := range d.Results {
		digests[r.Evidence] = r.Digest
	}
	return ev.ID, digests, nil
}

// Digest returns the hex SHA-256 of evidence as canonical JSON (RFC 8785),
// without what says where it stands: event and digest.
func Digest(e map[string]jsontext.Value) (string, error) {
	rest := map[string]jsontext.Value{}
	for name, v := range e {
		if !slices.Contains([]string{"event", "digest"}, name) {
			rest[name] = v
		}
	}
	b, err := json.Marshal(rest)
	if err != nil {
		return "", err
	}
	v := jsontext.Value(b)
	if err := v.Canonicalize(); err != nil {
		return "", err
	}
	sum := sha256.Sum256(v)
	return hex.EncodeToString(sum[:]), nil
}

// strict reports whether a base64 text is the only one for its bytes.
func strict(text string) bool {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	return err == nil && base64.StdEncoding.EncodeToString(b) == text
}
