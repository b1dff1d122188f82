package mapping

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// Whose a document is that names no readers.
const (
	Hidden   = "hidden" // nobody's; also if nothing is said
	Everyone = "everyone"
)

// Where the rights of who asks are applied, beside the check of each result.
const (
	InQuery  = "query"   // the engine is asked for what may be read alone; also if nothing is said
	OnResult = "results" // the engine cannot; what it ranks above is lost, see docs/retrieval.md
)

// Trusted is the source of documents that nobody outside can write.
const Trusted = "trusted"

// Mapping says how a retrieval connection reads its engine.
type Mapping struct {
	Table    string   `json:"table,omitzero" yaml:"table,omitempty" doc:"postgres: the table or view, as SCHEMA.NAME or NAME"`
	Language string   `json:"language,omitzero" yaml:"language,omitempty" doc:"postgres: text search configuration; empty: simple"`
	Index    string   `json:"index,omitzero" yaml:"index,omitempty" doc:"opensearch: the index; qdrant: the collection"`
	Vector   string   `json:"vector,omitzero" yaml:"vector,omitempty" doc:"postgres: a pgvector column; qdrant: the name of the vector"`
	Fields   Fields   `json:"fields,omitzero" yaml:"fields,omitempty" doc:"where each result keeps what"`
	Unlisted string   `json:"unlisted,omitzero" yaml:"unlisted,omitempty" doc:"whose a document is that names no readers: hidden (if empty) or everyone"`
	Source   string   `json:"source,omitzero" yaml:"source,omitempty" doc:"who writes the documents of which no field says it: trusted or untrusted (if empty)"`
	Filter   string   `json:"filter,omitzero" yaml:"filter,omitempty" doc:"search: query (if empty), or results if the API cannot filter by readers"`
	Search   *Request `json:"search,omitempty" yaml:"search,omitempty" doc:"search: how the API is asked"`
	Get      *Request `json:"get,omitempty" yaml:"get,omitempty" doc:"search: how the API is asked for one document"`
}

// Fields are the paths (or columns) at which a document has what. Empty: it
// has it nowhere.
type Fields struct {
	ID             string `json:"id,omitzero" yaml:"id,omitempty"`
	Title          string `json:"title,omitzero" yaml:"title,omitempty"`
	Text           string `json:"text,omitzero" yaml:"text,omitempty"`
	Owner          string `json:"owner,omitzero" yaml:"owner,omitempty"`
	Readers        string `json:"readers,omitzero" yaml:"readers,omitempty" doc:"user:NAME, group:NAME, team:NAME, agent:NAME or everyone"`
	Users          string `json:"users,omitzero" yaml:"users,omitempty" doc:"names of users"`
	Groups         string `json:"groups,omitzero" yaml:"groups,omitempty" doc:"names of groups"`
	Classification string `json:"classification,omitzero" yaml:"classification,omitempty"`
	Source         string `json:"source,omitzero" yaml:"source,omitempty" doc:"trusted or untrusted"`
	Collection     string `json:"collection,omitzero" yaml:"collection,omitempty"`
}

// Engines whose documents are read by a Mapping.
const (
	Postgres   = "postgres"
	OpenSearch = "opensearch"
	Qdrant     = "qdrant"
	API        = "search"
)

// Error says which field of a mapping is wrong.
type Error struct{ Field, Message string }

// Error returns "field: message".
func (e *Error) Error() string { return e.Field + ": " + e.Message }

func wrong(field, format string, args ...any) error {
	return &Error{field, fmt.Sprintf(format, args...)}
}

const maxName = 128

var (
	columnForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)
	tableForm  = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,62}$`)
	indexForm  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,126}$`)
	langForm   = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
)

// list returns the fields by their names.
func (f Fields) list() [][2]string {
	return [][2]string{{"id", f.ID}, {"title", f.Title}, {"text", f.Text}, {"owner", f.Owner}, {"readers", f.Readers}, {"users", f.Users},
		{"groups", f.Groups}, {"classification", f.Classification}, {"source", f.Source}, {"collection", f.Collection}}
}

// Check returns what is wrong with a mapping for an engine (an *Error).
func (m Mapping) Check(engine string) error {
	switch {
	case m.Unlisted != "" && m.Unlisted != Hidden && m.Unlisted != Everyone:
		return wrong("unlisted", "%.40q is neither hidden nor everyone", m.Unlisted)
	case m.Source != "" && m.Source != Trusted && m.Source != "untrusted":
		return wrong("source", "%.40q is neither trusted nor untrusted", m.Source)
	case m.Filter != "" && m.Filter != InQuery && (m.Filter != OnResult || engine != API):
		return wrong("filter", "%.40q must be query, or results for an API (dialect search) that cannot filter", m.Filter)
	case (m.Search != nil || m.Get != nil) && engine != API:
		return wrong("search", "only the dialect search has requests of its own")
	case engine != Postgres && (m.Table != "" || m.Language != ""):
		return wrong("table", "only postgres has a table and a language")
	case engine == Postgres && m.Index != "" || engine == API && (m.Index != "" || m.Vector != ""):
		return wrong("index", "only opensearch and qdrant have an index")
	case engine == OpenSearch && m.Vector != "":
		return wrong("vector", "only postgres and qdrant search by vector")
	}
	if err := m.checkFields(engine); err != nil {
		return err
	}
	switch engine {
	case Postgres:
		return m.checkTable()
	case OpenSearch, Qdrant:
		if !indexForm.MatchString(m.Index) {
			return wrong("index", "%.40q is not the name of an index or a collection", m.Index)
		}
		if m.Vector != "" && !columnForm.MatchString(m.Vector) {
			return wrong("vector", "%.40q is not the name of a vector", m.Vector)
		}
		return nil
	}
	return m.checkRequests()
}

func (m Mapping) checkTable() error {
	switch {
	case !tableForm.MatchString(m.Table):
		return wrong("table", "%.40q is not a table: SCHEMA.NAME or NAME", m.Table)
	case m.Language != "" && !langForm.MatchString(m.Language):
		return wrong("language", "%.40q is not the name of a text search configuration", m.Language)
	case m.Vector != "" && !columnForm.MatchString(m.Vector):
		return wrong("vector", "%.40q is not a column", m.Vector)
	}
	return nil
}

func (m Mapping) checkFields(engine string) error {
	f := m.Fields
	for _, x := range f.list() {
		name, path := "fields."+x[0], x[1]
		switch {
		case path == "":
		case engine == Postgres && !columnForm.MatchString(path):
			return wrong(name, "%.40q is not a column", path)
		case checkPath(path) != nil:
			return wrong(name, "%v", checkPath(path))
		case (engine == OpenSearch || engine == Qdrant) && strings.Contains(path, "*"):
			return wrong(name, "the engine is asked for the field by its name; it can have no *")
		}
	}
	switch {
	case f.ID == "" && engine != OpenSearch && engine != Qdrant:
		return wrong("fields.id", "say where a document has its id")
	case f.Text == "":
		return wrong("fields.text", "say where a document has its text")
	case f.Readers == "" && f.Users == "" && f.Groups == "" && m.Unlisted != Everyone:
		return wrong("fields.readers", "say where a document names who may read it, or unlisted: everyone if all of them are everyone's")
	}
	return nil
}

func (m Mapping) checkRequests() error {
	if m.Search == nil {
		return wrong("search", "say how the API is asked")
	}
	if err := m.Search.check("search", []string{"query", "words", "limit", "readers", "users", "groups"}); err != nil {
		return err
	}
	if !m.Search.uses("query") && !m.Search.uses("words") {
		return wrong("search", "what is asked for goes nowhere: use {{query}} or {{words}}")
	}
	listed := m.Fields.Readers != "" || m.Fields.Users != "" || m.Fields.Groups != ""
	for field, path := range map[string]string{"readers": m.Fields.Readers, "users": m.Fields.Users, "groups": m.Fields.Groups} {
		if path != "" && listed && m.Filter != OnResult && !m.Search.uses(field) {
			return wrong("search", "the API must be asked for what may be read alone: use {{%s}}, or say filter: results if it cannot", field)
		}
	}
	if m.Get == nil {
		return nil
	}
	if err := m.Get.check("get", []string{"id"}); err != nil {
		return err
	}
	if !m.Get.uses("id") {
		return wrong("get", "the id goes nowhere: use {{id}}")
	}
	return nil
}

// checkPath refuses what is no path into an answer.
func checkPath(path string) error {
	if len(path) > maxName {
		return fmt.Errorf("a path has at most %d bytes", maxName)
	}
	for step := range strings.SplitSeq(path, ".") {
		if step == "" || strings.ContainsFunc(step, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }) || strings.Contains(step, "*") && step != "*" {
			return errors.New("must be a path such as _source.title or readers.*.name")
		}
	}
	return nil
}
