package account

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/posture/bundle"
)

// The files of an incident's bundle.
const (
	Document = "incident.json"
	Proofs   = "proofs.jsonl"   // a proof file (docs/proof-format.md) a line, of each event of the account
	Contents = "contents.jsonl" // what stood beside the events, if it was exported: an Opening a line
)

// Format names the form of incident.json.
const Format = "countersign-incident/v1"

// Opening is content that belongs to an event: SHA-256(salt, body) is a commitment
// of the event.
type Opening struct {
	Event  string `json:"event"`
	Name   string `json:"name"`
	Salt   []byte `json:"salt,omitempty"`
	Body   []byte `json:"body,omitempty"`
	Erased bool   `json:"erased,omitempty"`
}

// Shown is what verifying an incident's file has shown.
type Shown struct {
	ID       string    `json:"id"`
	Title    string    `json:"title"`
	Exported time.Time `json:"exported"`
	Origin   string    `json:"origin"`   // of the log
	Trusted  bool      `json:"trusted"`  // the log's key was known from elsewhere
	Events   int       `json:"events"`   // each proven to be in the log
	Contents int       `json:"contents"` // each what its event committed to
	Files    []string  `json:"files"`
}

type document struct {
	Format   string `json:"format"`
	Incident struct {
		ID    string `json:"id"`
		Title string `json:"title"`
	} `json:"incident"`
	Account jsontext.Value `json:"account"`
}

// Verify verifies an incident's file by the log's key, without anything else: that
// no byte was changed, that each event is in the log, that the account is what
// follows from these events, and that contents are what the events committed to.
// Without a key the file's own is taken, and only that it belongs together is shown.
func Verify(file []byte, key string) (Shown, error) {
	o, err := bundle.Open(file, key)
	if err != nil {
		return Shown{}, err
	}
	raw, there := o.File(Document)
	var doc document
	if !there || json.Unmarshal(raw, &doc) != nil || doc.Format != Format {
		return Shown{}, o.Wrong(Document, "it is missing, or is no document of an incident")
	}
	records, err := proven(o, key)
	if err != nil {
		return Shown{}, err
	}
	if err := agrees(doc.Account, records); err != nil {
		return Shown{}, o.Wrong(Document, err.Error())
	}
	n, err := contents(o, records)
	return Shown{ID: doc.Incident.ID, Title: doc.Incident.Title, Exported: o.Exported, Origin: o.Origin, Trusted: o.Trusted, Events: len(records), Contents: n, Files: o.Files}, err
}

// proven returns the records that the file proves to be in the log, by event.
func proven(o *bundle.Opened, key string) (map[string][]byte, error) {
	out := map[string][]byte{}
	all, _ := o.File(Proofs)
	n := 0
	for line := range bytes.Lines(all) {
		n++
		shown, err := tlog.VerifyProof(bytes.TrimSpace(line), tlog.Trust{Key: key})
		if err != nil {
			return nil, o.Wrong(Proofs, fmt.Sprintf("line %d proves nothing: %v", n, err))
		}
		if shown.Origin != o.Origin {
			return nil, o.Wrong(Proofs, fmt.Sprintf("line %d is of another log", n))
		}
		var e event
		if json.Unmarshal([]byte(shown.Record), &e) != nil || e.ID == "" {
			return nil, o.Wrong(Proofs, fmt.Sprintf("line %d is no event", n))
		}
		out[e.ID] = []byte(shown.Record)
	}
	return out, nil
}

// agrees computes the account from the records, and compares.
func agrees(said jsontext.Value, records map[string][]byte) error {
	all := make([][]byte, 0, len(records))
	for _, r := range records {
		all = append(all, r)
	}
	a, err := Of(all)
	if err != nil {
		return err
	}
	b, err := json.Marshal(a, json.Deterministic(true))
	if err != nil {
		return err
	}
	is, want := said.Clone(), jsontext.Value(b)
	if is.Canonicalize() != nil || want.Canonicalize() != nil || !bytes.Equal(is, want) {
		return fmt.Errorf("the account is not what follows from the %d events that are proven", len(records))
	}
	return nil
}

// contents compares contents with the commitments of their events.
func contents(o *bundle.Opened, records map[string][]byte) (n int, err error) {
	all, there := o.File(Contents)
	if !there {
		return 0, nil
	}
	for line := range strings.Lines(string(all)) {
		var p Opening
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			return n, o.Wrong(Contents, "it cannot be read")
		}
		if p.Erased {
			continue
		}
		if !committed(records[p.Event], p) {
			return n, o.Wrong(Contents, p.Name+" of "+p.Event+" is not what the event committed to")
		}
		n++
	}
	return n, nil
}

func committed(record []byte, p Opening) bool {
	var e struct {
		Payloads []struct {
			Digest string `json:"digest"`
			Name   string `json:"name"`
		} `json:"payloads"`
	}
	if json.Unmarshal(record, &e) != nil {
		return false
	}
	h := sha256.New()
	h.Write(p.Salt)
	h.Write(p.Body)
	sum := hex.EncodeToString(h.Sum(nil))
	for _, c := range e.Payloads {
		if c.Name == p.Name && c.Digest == sum {
			return true
		}
	}
	return false
}
