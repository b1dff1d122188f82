package knowledge

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
)

// Errors of the room.
var (
	ErrNotFound   = fault.New(fault.NotFound, "document_not_found", "there is no such document")
	ErrDocument   = fault.New(fault.Invalid, "bad_document", "the document is not valid")
	ErrConnection = fault.New(fault.Invalid, "not_embedded", "the connection keeps no documents here: only a retrieval connection with the dialect embedded does")
	ErrReason     = fault.New(fault.Invalid, "reason_required", "say why (--reason), in 1 to 1000 bytes of text")
)

// Limits of a document.
const (
	MaxText    = 256 << 10 // bytes
	MaxBatch   = 100       // documents put at once
	maxTitle   = 512
	maxID      = 200
	maxReaders = 200
)

// The classifications of a document, from none to most.
var classifications = []string{"public", "internal", "confidential", "secret"}

// Sources of a document.
const (
	Trusted   = "trusted"
	Untrusted = "untrusted"
)

// Everyone is the reader of what all may read.
const Everyone = "everyone"

// Document is one document of a knowledge base.
type Document struct {
	ID             string   `json:"id"`
	Title          string   `json:"title"`
	Text           string   `json:"text,omitempty"`
	Owner          string   `json:"owner,omitempty" doc:"who answers for it"`
	Readers        []string `json:"readers" doc:"user:NAME, group:NAME, team:NAME, agent:NAME or everyone; none: nobody"`
	Classification string   `json:"classification,omitempty" doc:"public, internal (if empty), confidential or secret"`
	Source         string   `json:"source,omitempty" doc:"trusted, if nobody outside can write it; else untrusted (if empty)"`
	Collection     string   `json:"collection,omitempty"`

	Digest  string    `json:"digest,omitempty" doc:"SHA-256 of the text; ignored on put"`
	PutBy   string    `json:"put_by,omitempty" doc:"ignored on put"`
	Updated time.Time `json:"updated,omitzero" doc:"ignored on put"`

	seq int64
}

var (
	readerForm = regexp.MustCompile(`^(everyone|(user|group|team|agent):[^\s:][^\s]{0,254})$`)
	wordForm   = regexp.MustCompile(`^[\p{L}\p{N}][\p{L}\p{N} ._/@-]{0,127}$`)
)

func bad(field, format string, args ...any) error {
	return ErrDocument.Say(field+": "+format, args...)
}

// normal returns d as it is stored, or what is wrong with it.
func (d Document) normal() (Document, error) {
	d.Title = strings.TrimSpace(d.Title)
	if d.Title == "" {
		d.Title = d.ID
	}
	if d.Classification == "" {
		d.Classification = "internal"
	}
	if d.Source == "" {
		d.Source = Untrusted
	}
	d.Readers = slices.Compact(slices.Sorted(slices.Values(d.Readers)))
	switch {
	case d.ID == "" || len(d.ID) > maxID || !utf8.ValidString(d.ID) || strings.ContainsFunc(d.ID, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }):
		return d, bad("id", "%+.60q must be 1 to %d bytes without spaces or invisible characters", d.ID, maxID)
	case len(d.Title) > maxTitle || !plain(d.Title):
		return d, bad("title", "must be one line of at most %d bytes", maxTitle)
	case strings.TrimSpace(d.Text) == "" || len(d.Text) > MaxText || !utf8.ValidString(d.Text) || strings.ContainsRune(d.Text, 0):
		return d, bad("text", "must be 1 to %d bytes of UTF-8 without NUL", MaxText)
	case d.Owner != "" && !wordForm.MatchString(d.Owner):
		return d, bad("owner", "%.60q is not a name", d.Owner)
	case d.Collection != "" && !wordForm.MatchString(d.Collection):
		return d, bad("collection", "%.60q is not a name", d.Collection)
	case !slices.Contains(classifications, d.Classification):
		return d, bad("classification", "%.60q is not one of %s", d.Classification, strings.Join(classifications, ", "))
	case d.Source != Trusted && d.Source != Untrusted:
		return d, bad("source", "%.60q is neither trusted nor untrusted", d.Source)
	case len(d.Readers) > maxReaders:
		return d, bad("readers", "at most %d; use a group", maxReaders)
	}
	for _, r := range d.Readers {
		if !utf8.ValidString(r) || !readerForm.MatchString(r) {
			return d, bad("readers", "%+.60q must be user:NAME, group:NAME, team:NAME, agent:NAME or everyone", r)
		}
	}
	sum := sha256.Sum256([]byte(d.Text))
	d.Digest = hex.EncodeToString(sum[:])
	return d, nil
}

func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// same reports whether two documents say the same.
func (d Document) same(o Document) bool {
	return d.ID == o.ID && d.Title == o.Title && d.Text == o.Text && d.Owner == o.Owner && slices.Equal(d.Readers, o.Readers) &&
		d.Classification == o.Classification && d.Source == o.Source && d.Collection == o.Collection
}
