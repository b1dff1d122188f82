package retrieval

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
)

// Errors about what was asked for.
var (
	errQuery    = fault.New(fault.Invalid, "bad_query", "the query could not be understood")
	errVector   = fault.New(fault.Invalid, "no_vectors", "this connection cannot be searched by a vector; leave it out")
	errNotFound = fault.New(fault.NotFound, "document_not_found", "there is no such document, or it may not be read")
)

// Limits of a query and an answer.
const (
	maxQuery   = 4 << 10 // bytes
	maxID      = 512
	maxVector  = 4096 // numbers
	mostAsked  = 50
	fewAsked   = 10
	maxFilter  = 256
	maxExcerpt = 4 << 10 // bytes of each text in the answer to a search
	maxText    = 1 << 20 // of one document
)

// ask is what an agent asks for.
type ask struct {
	Query   string  `json:"query"`
	Limit   *int    `json:"limit"`
	Filters filters `json:"filters"`
	Vector  string  `json:"vector"`

	vector []float64
}

type filters struct {
	Owner          string `json:"owner"`
	Classification string `json:"classification"`
	Source         string `json:"source"`
	Collection     string `json:"collection"`
}

// parseSearch reads the arguments of a search, strictly.
func parseSearch(args jsontext.Value) (ask, error) {
	var a ask
	if err := json.Unmarshal(args, &a, json.RejectUnknownMembers(true)); err != nil {
		return a, errQuery.Say("send {\"query\": WORDS, \"limit\": NUMBER, \"filters\": {…}} and nothing else").With(err)
	}
	var err error
	a.vector, err = parseVector(a.Vector)
	switch {
	case err != nil:
		return a, err
	case strings.TrimSpace(a.Query) == "" && a.vector == nil:
		return a, errQuery.Say("the query is empty")
	case len(a.Query) > maxQuery || strings.ContainsRune(a.Query, 0) || !utf8.ValidString(a.Query):
		return a, errQuery.Say("the query must be text of at most %d bytes", maxQuery)
	case a.Limit != nil && (*a.Limit < 1 || *a.Limit > mostAsked):
		return a, errQuery.Say("limit must be between 1 and %d", mostAsked)
	}
	for _, f := range []string{a.Filters.Owner, a.Filters.Classification, a.Filters.Source, a.Filters.Collection} {
		if len(f) > maxFilter || strings.ContainsRune(f, 0) {
			return a, errQuery.Say("a filter must be text of at most %d bytes", maxFilter)
		}
	}
	return a, nil
}

func (a ask) limit() int {
	if a.Limit == nil {
		return fewAsked
	}
	return *a.Limit
}

// parseVector reads "[0.1,0.2]". It is a text because policy has no such numbers.
func parseVector(s string) ([]float64, error) {
	if s == "" {
		return nil, nil
	}
	bad := errQuery.Say("a vector is a text of at most %d numbers: [0.1,0.2]", maxVector)
	inner, ok := strings.CutPrefix(strings.TrimSpace(s), "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if !ok || !closed || strings.Count(inner, ",") >= maxVector || len(s) > 32*maxVector {
		return nil, bad
	}
	var out []float64
	for part := range strings.SplitSeq(inner, ",") {
		var n float64
		if err := json.Unmarshal([]byte(strings.TrimSpace(part)), &n); err != nil {
			return nil, bad
		}
		out = append(out, n)
	}
	return out, nil
}

// literal writes a vector in the one way that all engines read.
func literal(v []float64) string {
	parts := make([]string, len(v))
	for i, n := range v {
		parts[i] = strconv.FormatFloat(n, 'g', -1, 64)
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// parseGet reads the arguments of a get, strictly.
func parseGet(args jsontext.Value) (string, error) {
	var a struct {
		ID string `json:"id"`
	}
	err := json.Unmarshal(args, &a, json.RejectUnknownMembers(true))
	if err == nil && (a.ID == "" || len(a.ID) > maxID || strings.ContainsRune(a.ID, 0)) {
		err = errors.New("id")
	}
	if err != nil {
		return "", errQuery.Say("send {\"id\": ID} and nothing else; an id has 1 to %d bytes", maxID).With(err)
	}
	return a.ID, nil
}
