package incident

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/incident/account"
	"github.com/countersign/countersign/internal/posture/bundle"
	"github.com/countersign/countersign/internal/rest"
)

// document is incident.json.
type document struct {
	Format   string         `json:"format"`
	Product  string         `json:"product"`
	Version  string         `json:"version"`
	Exported time.Time      `json:"exported"`
	By       string         `json:"by"`
	Note     string         `json:"note"`
	Incident Incident       `json:"incident"`
	Notes    []Remark       `json:"notes"`
	Account  jsontext.Value `json:"account"`
	More     bool           `json:"more"`
	Undo     []Undo         `json:"undo"`
	Then     any            `json:"reach_then"`
	Now      any            `json:"reach_now"`
}

const documentNote = "The account follows from the events in proofs.jsonl, each proven to be in the log, and is computed again when the file is verified. Notes, undo plans and what agents " +
	"may touch are what the server said when the file was written. That no event was left out is shown by an export of the whole log, not by this file."

const readme = `An incident of a Countersign installation.

incident.json    the account: runs, credentials, touched objects, decisions, approvals, timeline; notes; undo plans; what agents may touch
proofs.jsonl     of each event of the account, that it is in the log
contents.jsonl   arguments, prompts and answers, if they were asked for: each is what its event committed to
proofs/          which key signs this

Verify it on any machine, without network, by the log's public key:

    countersign incident verify FILE --key KEY

Take the key from where you noted it (countersign log key show), not from here.
`

// Export returns an incident as one signed file, and records that it left. With
// contents, what stands beside its events is in it, and that it was seen is recorded.
func (s *Service) Export(ctx context.Context, c rest.Caller, incident string, contents bool) ([]byte, error) {
	v, recs, err := s.view(ctx, incident)
	if err != nil {
		return nil, err
	}
	if !contents {
		v.withoutArguments()
	}
	files, err := s.files(ctx, c, v, recs)
	if err != nil {
		return nil, err
	}
	if contents {
		f, err := s.contents(ctx, c, recs)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
		if err := s.read(ctx, c, incident); err != nil {
			return nil, err
		}
	}
	b, err := s.o.Bundle(ctx, files, s.o.Now())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	ev := event("incident.exported", audit.Person(c.ID, c.Name), v.Incident, c.Reason, map[string]any{"sha256": hex.EncodeToString(sum[:]), "bytes": len(b), "events": len(recs), "contents": contents})
	_, err = s.o.Log.Append(ctx, ev)
	return b, err
}

func (s *Service) files(ctx context.Context, c rest.Caller, v View, recs []audit.Record) ([]bundle.File, error) {
	a, err := json.Marshal(v.Account, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	doc, err := json.Marshal(document{Format: account.Format, Product: "Countersign", Version: s.o.Version, Exported: s.o.Now().UTC().Truncate(time.Second), By: c.Name, Note: documentNote,
		Incident: v.Incident, Notes: v.Notes, Account: a, More: v.More, Undo: v.Undo, Then: v.ReachThen, Now: v.ReachNow},
		json.Deterministic(true), json.FormatNilSliceAsNull(false), jsontext.WithIndent("  "))
	if err != nil {
		return nil, err
	}
	var proofs bytes.Buffer
	for _, r := range recs {
		b, err := s.o.Prove(ctx, r.Event.ID)
		if err != nil {
			return nil, err
		}
		line := jsontext.Value(b)
		if err := line.Compact(); err != nil {
			return nil, err
		}
		proofs.Write(append(line, '\n'))
	}
	return []bundle.File{{Name: "README.txt", Body: []byte(readme)}, {Name: account.Document, Body: append(doc, '\n')}, {Name: account.Proofs, Body: proofs.Bytes()}}, nil
}

// contents returns what stands beside events, with what their commitments were made of.
func (s *Service) contents(ctx context.Context, c rest.Caller, recs []audit.Record) (bundle.File, error) {
	recs, err := s.seen(ctx, c, recs)
	if err != nil {
		return bundle.File{}, err
	}
	var out bytes.Buffer
	for _, r := range recs {
		all, err := s.o.Log.Openings(ctx, r.Lane, r.SN, r.Raw)
		if err != nil {
			return bundle.File{}, err
		}
		for _, o := range all {
			if o.Problem != "" {
				continue // log verify tells of it
			}
			b, err := json.Marshal(account.Opening{Event: r.Event.ID, Name: o.Name, Salt: o.Salt, Body: o.Body, Erased: o.Erased}, json.Deterministic(true))
			if err != nil {
				return bundle.File{}, err
			}
			out.Write(append(b, '\n'))
		}
	}
	return bundle.File{Name: account.Contents, Body: out.Bytes()}, nil
}
