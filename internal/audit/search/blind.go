package search

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"hash"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// blinder turns words into keyed digests of which nothing can be told but
// equality.
type blinder struct{ key []byte }

func newBlinder(key []byte) blinder { return blinder{key} }

// blindWord is how long a blinded word is: 50 bits, so that two words of a
// vocabulary of a million meet with a chance of one in a thousand million each.
const blindWord = 10

var blindLetters = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// all blinds words one by one.
func (b blinder) all(words []string) []string {
	out := make([]string, len(words))
	m := hmac.New(sha256.New, b.key)
	for i, w := range words {
		out[i] = blind(m, w)[:blindWord]
	}
	return out
}

// digest returns a longer digest of something that is not a word.
func (b blinder) digest(s string) string { return blind(hmac.New(sha256.New, b.key), s) }

func blind(m hash.Hash, s string) string {
	var sum [sha256.Size]byte
	var text [16]byte
	m.Reset()
	m.Write([]byte(s))
	blindLetters.Encode(text[:], m.Sum(sum[:0])[:10])
	return string(text[:])
}

// text blinds the words of a text, in order.
func (b blinder) text(s string) string {
	if s == "" {
		return ""
	}
	words := strings.Fields(s)
	seen := make(map[string]string, len(words))
	var distinct []string
	for _, w := range words {
		if _, ok := seen[w]; !ok {
			seen[w] = ""
			distinct = append(distinct, w)
		}
	}
	for i, blind := range b.all(distinct) {
		seen[distinct[i]] = blind
	}
	for i, w := range words {
		words[i] = seen[w]
	}
	return strings.Join(words, " ")
}

// purgeState is the row that says whether SQLite's index still holds, in its
// files, entries of what was erased: 0 no, 1 yes, 2 they are being merged away.
const purgeState = "purge"

// forget removes the words of payloads from the index.
func (s *Service) forget(ctx context.Context, tx *storage.Tx, places []audit.Place) error {
	if len(places) == 0 {
		return nil
	}
	if s.db.Dialect() == storage.SQLite {
		return s.forgetLite(ctx, tx, places)
	}
	_, err := tx.Exec(ctx, `UPDATE search_events SET blind = '' WHERE place IN (`+joinPlaces(places)+`)`)
	return err
}

// purgePages is how much one step of purging writes, in pages of the index.
const purgePages = 64

// purge takes one step of merging SQLite's index into one without the entries
// that were deleted, which till then stay behind, and reports whether there is
// more to do. PostgreSQL does it by itself (autovacuum).
func (s store) purge(ctx context.Context) (more bool, err error) {
	if s.db.Dialect() == storage.Postgres {
		return false, nil
	}
	var state int64
	err = s.db.QueryRow(ctx, `SELECT value FROM search_state WHERE name = $1`, purgeState).Scan(&state)
	if storage.NoRows(err) || (err == nil && state == 0) {
		return false, nil
	}
	if err != nil {
		return false, storage.ErrUnavailable.With(err)
	}
	err = s.db.Tx(ctx, func(tx *storage.Tx) error {
		var before, after, on int64
		if err := tx.QueryRow(ctx, `PRAGMA secure_delete = ON`).Scan(&on); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT total_changes(), value FROM search_state WHERE name = $1`, purgeState).Scan(&before, &state); err != nil {
			return err
		}
		pages := purgePages
		if state == 1 {
			pages = -purgePages // begins by planning to merge everything
		}
		if _, err := tx.Exec(ctx, `INSERT INTO search_text (search_text, rank) VALUES ('merge', $1)`, pages); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT total_changes()`).Scan(&after); err != nil {
			return err
		}
		next := int64(2)
		if after-before < 2 { // SQLite's sign that there was nothing to do
			next = 0
		}
		more = next != 0
		_, err := tx.Exec(ctx, `UPDATE search_state SET value = $1 WHERE name = $2`, next, purgeState)
		return err
	})
	return more, err
}
