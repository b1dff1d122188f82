package retrieval_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/knowledge"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Words that no stemmer takes for each other.
var vocabulary = strings.Fields("alpha bravo delta golf kilo lima oscar papa tango zulu")

var (
	people = []string{"ann", "ben", "cem", "dana"}
	groups = []string{"red", "green", "blue"}
)

func randomDocument(r *rand.Rand, id string) knowledge.Document {
	var words []string
	for range 1 + r.IntN(30) {
		words = append(words, vocabulary[r.IntN(len(vocabulary))])
	}
	d := knowledge.Document{ID: id, Title: vocabulary[r.IntN(len(vocabulary))], Text: strings.Join(words, " ")}
	for range r.IntN(4) {
		switch r.IntN(8) {
		case 0:
			d.Readers = append(d.Readers, "everyone")
		case 1, 2, 3:
			d.Readers = append(d.Readers, "group:"+groups[r.IntN(len(groups))])
		default:
			d.Readers = append(d.Readers, "user:"+people[r.IntN(len(people))])
		}
	}
	d.Classification = []string{"public", "internal", "confidential", "secret"}[r.IntN(4)]
	return d
}

// mayRead is the naive filter.
func mayRead(d knowledge.Document, user string, in []string) bool {
	for _, reader := range d.Readers {
		kind, name, _ := strings.Cut(reader, ":")
		if reader == "everyone" || kind == "user" && name == user || kind == "group" && slices.Contains(in, name) {
			return true
		}
	}
	return false
}

func matches(d knowledge.Document, query []string) bool {
	words := append(strings.Fields(d.Text), d.Title)
	return slices.ContainsFunc(query, func(q string) bool { return slices.Contains(words, q) })
}

// For random documents, people, groups and queries the answer is what a naive
// filter says, and a world that differs in nothing but documents that may not be
// read answers the same, to the byte.
func TestAnswersEqualANaiveFilterAndTellNothingOfTheRest(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newRig(t, db)
		for seed := range uint64(4) {
			r := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // a test that can be repeated
			user := people[r.IntN(len(people))]
			in := slices.DeleteFunc(slices.Clone(groups), func(string) bool { return r.IntN(2) == 0 })
			one, two := fmt.Sprintf("one%d", seed), fmt.Sprintf("two%d", seed)
			h.embedded(one)
			h.embedded(two)
			var readable, inOne, inTwo []knowledge.Document
			for i := range 60 {
				d := randomDocument(r, fmt.Sprintf("d%02d", i))
				inOne = append(inOne, d)
				if mayRead(d, user, in) {
					readable = append(readable, d)
					inTwo = append(inTwo, d)
				}
			}
			for i := range 25 { // what else is there differs
				if d := randomDocument(r, fmt.Sprintf("x%02d", i)); !mayRead(d, user, in) {
					inTwo = append(inTwo, d)
				}
			}
			h.put(one, inOne...)
			h.put(two, inTwo...)
			h.is(user, in...)
			for range 8 {
				var query []string
				for range 1 + r.IntN(3) {
					query = append(query, vocabulary[r.IntN(len(vocabulary))])
				}
				compare(t, h, one, two, readable, query, 1+r.IntN(50))
			}
			for i := range 12 {
				if a, b := h.get(one, fmt.Sprintf("d%02d", i)), h.get(two, fmt.Sprintf("d%02d", i)); a.body != b.body || a.status != b.status {
					t.Errorf("get d%02d: %d %s\n%d %s", i, a.status, a.body, b.status, b.body)
				}
			}
		}
	})
}

func compare(t *testing.T, h *rig, one, two string, readable []knowledge.Document, query []string, limit int) {
	t.Helper()
	a, b := h.search(one, strings.Join(query, " "), limit), h.search(two, strings.Join(query, " "), limit)
	if a.body != b.body || a.status != b.status {
		t.Errorf("%v: two worlds that differ in hidden documents answer\n%d %s\n%d %s", query, a.status, a.body, b.status, b.body)
	}
	all := h.search(one, strings.Join(query, " "), 50)
	var want []string
	for _, d := range readable {
		if matches(d, query) {
			want = append(want, d.ID)
		}
	}
	got := slices.Sorted(slices.Values(all.ids))
	if len(want) <= 50 && !slices.Equal(got, want) {
		t.Errorf("%v: found %v, want %v", query, got, want)
	}
	if !slices.Equal(a.ids, all.ids[:min(limit, len(all.ids))]) {
		t.Errorf("%v: the best %d are %v of %v", query, limit, a.ids, all.ids)
	}
}
