package connections

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
)

// Errors about tools.
var (
	ErrNoTool      = fault.New(fault.NotFound, "tool_not_found", "no such tool; countersign tool list shows what there is")
	ErrEffect      = fault.New(fault.Invalid, "bad_effect", "an effect is read, write or irreversible")
	ErrBuiltin     = fault.New(fault.Invalid, "builtin_tool", "built-in tools are part of the protocol; their effect is fixed and they cannot drift")
	ErrDigest      = fault.New(fault.Conflict, "digest_mismatch", "the tool's definition is no longer the one you looked at; look at the difference again and accept that")
	ErrNothingNew  = fault.New(fault.Conflict, "nothing_to_accept", "the tool is as it was accepted")
	ErrDefinitions = fault.New(fault.Upstream, "bad_definitions", "the upstream's tool list cannot be trusted")
	ErrUndiscover  = fault.New(fault.Unavailable, "no_discovery", "this process cannot ask upstreams for their tools")
)

// The effects of a tool, from none to worst.
const (
	Read         = "read"         // changes nothing
	Write        = "write"        // changes something that can be changed back
	Irreversible = "irreversible" // cannot be taken back, or nobody has said that it can
)

// The statuses of a tool.
const (
	StatusPinned  = "pinned"  // accepted, and the upstream says the same
	StatusDrifted = "drifted" // accepted, but the upstream's definition changed: refused until accepted
	StatusNew     = "new"     // never accepted: refused until accepted
	StatusGone    = "gone"    // accepted, but the upstream no longer lists it
)

// Limits on what an upstream may say.
const (
	MaxTools      = 2000      // tools of one connection
	MaxDefinition = 256 << 10 // bytes of one definition
	MaxToolName   = 128       // bytes
	maxDepth      = 64        // nesting of a definition
)

// Tool is one thing a connection can do. The byte slices are shared: they must
// not be changed.
type Tool struct {
	ID, Connection, Name string
	Effect               string // Read, Write or Irreversible
	Status               string // StatusPinned, StatusDrifted, StatusNew or StatusGone
	Builtin              bool
	// Definition is what was accepted (of a new tool: what was seen), as the
	// upstream sent it, with secrets replaced. Empty for built-in tools.
	Definition  jsontext.Value
	InputSchema jsontext.Value // JSON Schema of the arguments, an object
	Digest      string         // hex SHA-256 of the canonical accepted definition; empty for new and built-in tools
	Drift       jsontext.Value // the definition as seen now, where it differs
	DriftDigest string         // its digest: what a person who looked at it accepts
	Description string
	// References say what the arguments mean: a person declares them.
	References References
	PinnedBy   string // who accepted it
	PinnedAt   time.Time
	SeenAt     time.Time // when Drift was first seen
}

// Callable reports whether calls to the tool may be decided at all.
func (t Tool) Callable() bool { return t.Status == StatusPinned }

// Protocol reports whether the tool stands for a method of MCP itself.
func (t Tool) Protocol() bool { return strings.HasPrefix(t.Name, Protocol) }

// Offered reports whether agents may be shown the tool among those they call: it
// is no method of MCP, and not what stands for a document of an answer.
func (t Tool) Offered() bool {
	return !t.Protocol() && !(t.Builtin && t.Name == RetrieveDocument)
}

// Definition is one tool as an upstream lists it, in the exact bytes it sent.
type Definition struct {
	Name string
	Raw  jsontext.Value
}

// Verdict is how a definition compares with its pin.
type Verdict int

// The verdicts. Only Same may be shown to agents and called.
const (
	Same    Verdict = iota // as accepted
	Changed                // drifted, or was drifted and nobody has looked yet
	Unknown                // nobody accepted this tool
)

// String returns the verdict as a word.
func (v Verdict) String() string { return [...]string{"same", "changed", "new"}[v] }

func rank(effect string) int {
	switch effect {
	case Read:
		return 1
	case Write:
		return 2
	case Irreversible:
		return 3
	}
	return 0
}

// Digest returns the hex SHA-256 of the canonical form (RFC 8785) of a
// definition, with one stricter rule: numbers count as they are written, since
// RFC 8785 would round large integers and hide a change.
func Digest(raw jsontext.Value) (string, error) {
	v := raw.Clone()
	if err := canonicalize(&v); err != nil {
		return "", ErrDefinitions.Say("a tool definition is not strict JSON").With(err)
	}
	sum := sha256.Sum256(v)
	return hex.EncodeToString(sum[:]), nil
}

func canonicalize(v *jsontext.Value) error {
	return v.Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false))
}

// parsed is what we read of a definition.
type parsed struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	InputSchema jsontext.Value `json:"inputSchema"`
	Annotations struct {
		ReadOnly    *bool `json:"readOnlyHint"`
		Destructive *bool `json:"destructiveHint"`
	} `json:"annotations"`
}

var emptySchema = jsontext.Value(schemaNone)

// parseDefinition reads and checks one definition.
func parseDefinition(d Definition) (parsed, error) {
	var p parsed
	if !utf8.Valid(d.Raw) || len(d.Raw) > MaxDefinition {
		return p, ErrDefinitions.Say("the definition of tool %s is over %d bytes or not UTF-8", shown(d.Name), MaxDefinition)
	}
	if err := checkToolName(d.Name); err != nil {
		return p, err
	}
	if deep(d.Raw) {
		return p, ErrDefinitions.Say("the definition of tool %s is nested more than %d levels", shown(d.Name), maxDepth)
	}
	if err := json.Unmarshal(d.Raw, &p); err != nil {
		return p, ErrDefinitions.Say("the definition of tool %s cannot be read", shown(d.Name)).With(err)
	}
	if p.Name != d.Name {
		return p, ErrDefinitions.Say("the definition of tool %s names another tool", shown(d.Name))
	}
	if len(p.InputSchema) == 0 || p.InputSchema.Kind() == 'n' {
		p.InputSchema = emptySchema
	}
	if p.InputSchema.Kind() != '{' {
		return p, ErrDefinitions.Say("the input schema of tool %s is not an object", shown(d.Name))
	}
	return p, nil
}

// checkToolName refuses names that a person could not read or that collide
// with ours. They are printed, logged and written into policies.
func checkToolName(name string) error {
	switch {
	case name == "" || len(name) > MaxToolName || !utf8.ValidString(name):
		return ErrDefinitions.Say("the tool name %s is empty, over %d bytes or not UTF-8", shown(clip(name)), MaxToolName)
	case strings.HasPrefix(name, Protocol):
		return ErrDefinitions.Say("the tool name %s begins with %s, which is reserved", shown(name), Protocol)
	case strings.TrimSpace(name) != name:
		return ErrDefinitions.Say("the tool name %s begins or ends with a space", shown(name))
	}
	for _, r := range name {
		if !unicode.IsGraphic(r) || unicode.Is(unicode.Cf, r) {
			return ErrDefinitions.Say("the tool name %s has control or invisible characters", shown(name))
		}
	}
	return nil
}

func deep(raw []byte) bool {
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	for {
		if _, err := d.ReadToken(); err != nil {
			return false // malformed JSON is for the parser to say, the end is fine
		}
		if d.StackDepth() > maxDepth {
			return true
		}
	}
}

// claim returns the effect that a definition's annotations admit outright, ""
// if they are silent. It is the upstream's word: it may raise, never lower.
func (p parsed) claim() string {
	a := p.Annotations
	switch {
	case a.ReadOnly != nil && *a.ReadOnly:
		return ""
	case a.Destructive != nil && *a.Destructive:
		return Irreversible
	case a.ReadOnly != nil:
		return Write
	}
	return ""
}

// initial returns the effect of a tool that is pinned for the first time: worst
// until a person says otherwise. A person gives the operations of an HTTP API,
// and a method that promises to change nothing is as good as their word.
func (p parsed) initial(c Connection) string {
	switch {
	case c.Kind != HTTP:
		return Irreversible
	case p.Annotations.ReadOnly != nil && *p.Annotations.ReadOnly:
		return Read
	}
	return Write
}

// raised returns the effect of a tool whose definition changes from old to now:
// what a person said of old, or more if now admits to more than old did.
func raised(effect string, old, now parsed) string {
	if c := now.claim(); rank(c) > rank(effect) && rank(c) > rank(old.claim()) {
		return c
	}
	return effect
}

// shown renders foreign text so that it cannot play tricks on a terminal.
func shown(s string) string { return fmt.Sprintf("%+q", clip(s)) }
