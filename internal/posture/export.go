package posture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/posture/bundle"
	"github.com/countersign/countersign/internal/posture/framework"
)

// KeyMade is the type of the event in which the log says which key signs
// evidence.
const KeyMade audit.Type = bundle.KeyEvent

// Exported is the type of the event that evidence left.
const Exported audit.Type = "evidence.exported"

// Errors of an export.
var (
	ErrNothing   = fault.New(fault.Conflict, "no_evidence", "there is no evidence yet; run countersign posture run")
	ErrNotSealed = fault.New(fault.Unavailable, "not_sealed_yet", "the log does not seal what was recorded, so it cannot be proven; try again, and see countersign log status")
)

// sealWithin is how long an export waits until what it proves is sealed.
const sealWithin = 20 * time.Second

// Format names the form of evidence.json.
const Format = "countersign-evidence-v1"

// document is evidence.json, and what the other forms are made of.
type document struct {
	Format     string      `json:"format"`
	Product    string      `json:"product"`
	Version    string      `json:"version"`
	Exported   time.Time   `json:"exported"`
	By         string      `json:"by"`
	Note       string      `json:"note"`
	Predicates []Predicate `json:"predicates"`
	Evidence   []Stored    `json:"evidence"`
	Frameworks []Catalog   `json:"frameworks"`

	models map[string]sight
	links  []framework.Link
}

const documentNote = "A result counts from collected to expires. PASS means that everything that was observed was looked at and nothing broke a check that was shown to catch a violation. " +
	"NO_DATA is no pass. MANUAL is what this product has no evidence for. There is no score: what is absent would count in it."

// Export returns the newest evidence as one signed bundle, and records that it
// left. Every result in it is proven to be in the log. Evidence that was never
// computed is left out; what expired is in it and says so.
func (s *Service) Export(ctx context.Context, by audit.Actor, reason string) ([]byte, error) {
	doc, err := s.document(ctx, by)
	if err != nil {
		return nil, err
	}
	files, err := s.forms(doc)
	if err != nil {
		return nil, err
	}
	proofs, err := s.proofs(ctx, doc)
	if err != nil {
		return nil, err
	}
	b, err := s.Bundle(ctx, append(files, proofs...), doc.Exported)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	detail, err := json.Marshal(map[string]any{"sha256": hex.EncodeToString(sum[:]), "bytes": len(b), "results": len(doc.Evidence)}, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	_, err = s.o.Log.Append(ctx, audit.Event{Type: Exported, Actor: by, Reason: reason, Object: "evidence", Detail: detail})
	return b, err
}

func (s *Service) document(ctx context.Context, by audit.Actor) (*document, error) {
	newest, err := s.latest(ctx)
	if err != nil {
		return nil, err
	}
	if len(newest) == 0 {
		return nil, ErrNothing
	}
	doc := &document{Format: Format, Product: "Countersign", Version: s.o.Version, Exported: s.o.Now().UTC().Truncate(time.Second), By: by.Name, Note: documentNote, Predicates: predicates, links: framework.Links()}
	for _, p := range predicates {
		if x, ok := newest[p.ID]; ok {
			doc.Evidence = append(doc.Evidence, x)
		}
	}
	for _, f := range framework.All() {
		c, err := s.Catalog(ctx, f.ID, defaultDays)
		if err != nil {
			return nil, err
		}
		doc.Frameworks = append(doc.Frameworks, c)
	}
	doc.models, err = s.models(ctx)
	return doc, err
}

// forms returns the document in every form.
func (s *Service) forms(doc *document) ([]bundle.File, error) {
	encode := func(v any) ([]byte, error) {
		b, err := json.Marshal(v, json.Deterministic(true), json.FormatNilSliceAsNull(false), jsontext.WithIndent("  "))
		return append(b, '\n'), err
	}
	report, err1 := doc.report()
	evidence, err2 := encode(doc)
	results, err3 := encode(doc.oscal())
	boms, err4 := encode(s.bom(doc))
	findings, err5 := doc.ocsf()
	return []bundle.File{
		{Name: "README.txt", Body: []byte(readme)}, {Name: "report.html", Body: report}, {Name: bundle.Evidence, Body: evidence},
		{Name: "oscal-assessment-results.json", Body: results}, {Name: "ocsf-compliance-findings.jsonl", Body: findings}, {Name: "cyclonedx-inventory.json", Body: boms},
	}, errors.Join(err1, err2, err3, err4, err5)
}

const readme = `Evidence of a Countersign installation.

report.html                     for people; print it
evidence.json                   everything, with what broke each check
oscal-assessment-results.json   OSCAL 1.2.2 assessment results
ocsf-compliance-findings.jsonl  OCSF 1.8 compliance findings (class 2003)
cyclonedx-inventory.json        CycloneDX 1.6: agents, models, connections, tools
proofs/                         that each result is in the log, and which key signs this

Verify it on any machine, without network, by the log's public key:

    countersign evidence verify FILE --key KEY

Take the key from where you noted it (countersign log key show), not from here.
`

// Bundle returns files as one bundle, signed by the key that the log names as ours.
func (s *Service) Bundle(ctx context.Context, files []bundle.File, at time.Time) ([]byte, error) {
	signer, vkey, err := bundle.Key(s.o.Derive("posture/bundle/v1"))
	if err != nil {
		return nil, err
	}
	event, err := s.keyEvent(ctx, vkey)
	if err != nil {
		return nil, err
	}
	b, err := s.Proof(ctx, event)
	if err != nil {
		return nil, err
	}
	return bundle.Write(append(files, bundle.File{Name: bundle.KeyProof, Body: b}), at, signer)
}

// proofs returns the proof files of the events of the runs.
func (s *Service) proofs(ctx context.Context, doc *document) ([]bundle.File, error) {
	out := []bundle.File{}
	runs := map[string]bool{}
	for _, e := range doc.Evidence {
		runs[e.Event] = true
	}
	for _, event := range slices.Sorted(maps.Keys(runs)) {
		b, err := s.Proof(ctx, event)
		if err != nil {
			return nil, err
		}
		out = append(out, bundle.File{Name: "proofs/" + event + ".proof", Body: b})
	}
	return out, nil
}

// Proof returns the proof file of an event; it waits the moment it takes until a
// fresh one is sealed.
func (s *Service) Proof(ctx context.Context, event string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, sealWithin)
	defer cancel()
	for {
		b, err := s.o.Prove(ctx, event)
		if err == nil || fault.Public(err).Code != ErrNotSealed.Code {
			return b, err
		}
		select {
		case <-ctx.Done():
			return nil, ErrNotSealed
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// keyEvent returns the event in which the log names the key; it is recorded when
// the key is first used.
func (s *Service) keyEvent(ctx context.Context, vkey string) (string, error) {
	recs, err := s.o.Log.List(ctx, audit.Query{Types: []audit.Type{KeyMade}, Limit: 100})
	if err != nil {
		return "", err
	}
	detail, err := json.Marshal(map[string]string{"key": vkey})
	if err != nil {
		return "", err
	}
	for _, r := range recs {
		var d struct {
			Key string `json:"key"`
		}
		if json.Unmarshal(r.Event.Detail, &d) == nil && d.Key == vkey {
			return r.Event.ID, nil
		}
	}
	ref, err := s.o.Log.Append(ctx, audit.Event{Type: KeyMade, Actor: audit.System, Object: "evidence/key", Detail: detail})
	return ref.ID, err
}

// models returns the models that answered in the window, as they said.
func (s *Service) models(ctx context.Context) (map[string]sight, error) {
	out := map[string]sight{}
	q := audit.Query{Types: []audit.Type{audit.CallOutcome}, Since: s.o.Now().Add(-window), Limit: perPage}
	for range mostPages {
		recs, err := s.o.Log.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range recs {
			if o := r.Event.Outcome; o != nil && o.Usage != nil && o.Usage.Model != "" {
				m := out[r.Event.Connection+"/"+o.Usage.Model]
				if m.calls++; m.event == "" {
					m.event, m.at = r.Event.ID, r.Event.Time
				}
				out[r.Event.Connection+"/"+o.Usage.Model] = m
			}
		}
		if len(recs) < q.Limit {
			break
		}
		q.After = recs[len(recs)-1].Event.ID
	}
	return out, nil
}

// ours is the namespace of our UUIDs.
var ours = uuid.MustParse("5d0f8f0a-3a0c-4b57-9d55-0f6f2f1f7c11")

// named is a UUID that follows from a text (RFC 9562 section 5.5, version 5).
func named(text string) string { return uuid.NewSHA1(ours, []byte(text)).String() }

// lines returns v as one JSON line.
func lines[T any](all []T) ([]byte, error) {
	var out bytes.Buffer
	for _, v := range all {
		b, err := json.Marshal(v, json.Deterministic(true), json.FormatNilSliceAsNull(false))
		if err != nil {
			return nil, err
		}
		out.Write(append(b, '\n'))
	}
	return out.Bytes(), nil
}
