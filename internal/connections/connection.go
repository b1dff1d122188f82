package connections

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/fault"
)

// Errors about connections.
var (
	ErrNotFound    = fault.New(fault.NotFound, "connection_not_found", "no such connection; countersign connection list shows what there is")
	ErrSpec        = fault.New(fault.Invalid, "bad_connection", "the connection is not valid")
	ErrUnsupported = fault.New(fault.Unsupported, "kind_not_in_this_version", "connections of this kind are not in this version; use llm, mcp, http or retrieval")
	ErrOwner       = fault.New(fault.Invalid, "unknown_owner", "the owner must be an existing user")
)

// The kinds of connections in this version.
const (
	LLM = "llm" // a model provider, Dialect says which wire
	MCP = "mcp" // a Model Context Protocol server, over Streamable HTTP (URL) or stdio (Command)
	// HTTP is any HTTP API: its tools are operations that a person lists or
	// imports. With the dialect Git it is a server of git repositories.
	HTTP = "http"
	// Retrieval is a body of documents that agents search, Dialect says in which
	// engine. What an answer may contain is decided document by document.
	Retrieval = "retrieval"
)

// The dialects of a connection of kind llm.
const (
	OpenAI    = "openai"
	Anthropic = "anthropic"
)

// Git is the dialect of an http connection that serves git repositories by the
// smart protocol.
const Git = "git"

// The dialects of a retrieval connection.
const (
	Embedded   = "embedded"         // documents that Countersign keeps itself
	Postgres   = mapping.Postgres   // a table, by full text
	OpenSearch = mapping.OpenSearch // an index of OpenSearch or Elasticsearch
	Qdrant     = mapping.Qdrant     // a collection of Qdrant
	SearchAPI  = mapping.API        // any HTTP API that searches
)

// Engines are the dialects of a retrieval connection.
var Engines = []string{Embedded, Postgres, OpenSearch, Qdrant, SearchAPI}

// The ways a connection's secret is put on a request. A header of its own is
// written "header:NAME".
const (
	AuthBearer = "bearer"    // Authorization: Bearer SECRET
	AuthAPIKey = "x-api-key" // x-api-key: SECRET
	AuthBasic  = "basic"     // Authorization: Basic; the secret is USER:PASSWORD
	AuthNone   = "none"      // no secret
	AuthHeader = "header:"   // prefix; NAME: SECRET
)

// How much of the payloads of a connection's calls the log keeps. Secrets are
// replaced at every level.
const (
	CaptureFull     = "full"     // up to 256 KiB of each
	CaptureRedacted = "redacted" // up to 16 KiB of each, payment card numbers masked; the default
	CaptureDigest   = "digest"   // size and commitment alone
)

// SecretScheme begins an environment value that names a secret instead of
// holding it: "secret://ledger-db".
const SecretScheme = "secret://"

// SecretParts are what may follow the name of a secret that is a URL, after a
// "#", for programs that want its parts: "secret://ledger-db#password".
var SecretParts = []string{"username", "password", "host", "port", "database"}

// Limits of a connection.
const (
	maxURL         = 2048
	maxArgs        = 64
	maxArg         = 4096
	maxEnv         = 64
	maxDescription = 4096
	// MaxTimeout is the longest time a connection may be given to begin its answer.
	MaxTimeout = time.Hour
)

// Connection is a registered upstream.
type Connection struct {
	ID, Name    string
	Kind        string // LLM, MCP, HTTP or Retrieval
	Dialect     string // of an llm: OpenAI or Anthropic; of an http: Git or nothing; of a retrieval: one of Engines
	URL         string
	Command     []string          // of an mcp over stdio: program and arguments, never a secret
	Env         map[string]string // of Command; a value may be "secret://name"
	Owner       string            // name of the user who answers for it
	Secret      string            // name of the secret sent with each request
	Auth        string            // how: AuthBearer, AuthAPIKey, AuthBasic, AuthNone or "header:NAME"
	Description string
	// AllowPrivate lets the URL name, or resolve to, a loopback or private
	// address, and lets such an address be spoken to without TLS.
	AllowPrivate bool
	Timeout      time.Duration // until the answer begins; 0 means the gateway's default
	Capture      string        // how much of its payloads is kept: CaptureFull, CaptureRedacted or CaptureDigest
	// Proposal is what kind of proposal every answer of it is, where its tools do
	// not say: a model that classifies. Empty: none.
	Proposal string
	// Retrieval says how a retrieval connection reads its engine; nil for others
	// and for Embedded.
	Retrieval *mapping.Mapping
	// Inspect says what is done about what is found in its calls and answers: label
	// to action. What is left out is noted.
	Inspect map[string]string
	// Stages are the stages whose agents may reach it. Empty: nobody said, and
	// agents of every stage may.
	Stages  []string
	Created time.Time
	Updated time.Time
	// Discovered is when its tools were first discovered and pinned; zero for
	// an mcp or http connection that still waits for that. An llm needs none.
	Discovered time.Time
}

var (
	nameForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	secretForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	envForm    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	headerForm = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")
)

// FieldError says which field of a connection is wrong, for a manifest that
// wants to point at its line. It is the cause inside ErrSpec and its kin.
type FieldError struct {
	Field   string
	Message string
}

// Error returns "field: message".
func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

func bad(field, format string, args ...any) error {
	fe := &FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
	return ErrSpec.Say("%s", fe.Error()).With(fe)
}

// Normalize returns c with its defaults filled in, or says what is wrong with
// it (ErrSpec or ErrUnsupported, with a FieldError as cause). It does not look
// at the store: whether the owner exists is checked when it is registered.
func (c Connection) Normalize() (Connection, error) {
	c.Command, c.Env, c.Inspect = slices.Clone(c.Command), maps.Clone(c.Env), maps.Clone(c.Inspect)
	c.Stages = slices.Clone(c.Stages)
	for _, check := range []func(*Connection) error{checkName, checkKind, checkText, checkTarget, checkEnv, checkAuth, checkCapture, checkProposes, checkRetrieval, checkInspect, checkStages} {
		if err := check(&c); err != nil {
			return Connection{}, err
		}
	}
	return c, nil
}

// ValidName reports whether s may name a connection: lower-case letters, digits
// and hyphens, so that connection__tool splits at its first "__".
func ValidName(s string) bool { return nameForm.MatchString(s) }

func checkName(c *Connection) error {
	if !ValidName(c.Name) {
		return bad("name", "%q must be 1 to 63 lower-case letters, digits and hyphens, beginning with a letter or digit", clip(c.Name))
	}
	return nil
}

func checkKind(c *Connection) error {
	switch c.Kind {
	case LLM:
		if c.Dialect != OpenAI && c.Dialect != Anthropic {
			return bad("dialect", "an llm connection speaks openai or anthropic, not %q", clip(c.Dialect))
		}
	case MCP:
		if c.Dialect != "" {
			return bad("dialect", "only llm and http connections have a dialect")
		}
	case HTTP:
		if c.Dialect != "" && c.Dialect != Git {
			return bad("dialect", "an http connection speaks git, or plain HTTP without a dialect, not %q", clip(c.Dialect))
		}
	case Retrieval:
		if !slices.Contains(Engines, c.Dialect) {
			return bad("dialect", "a retrieval connection names its engine: %s, not %q", strings.Join(Engines, ", "), clip(c.Dialect))
		}
	default:
		return bad("kind", "%q must be llm, mcp, http or retrieval", clip(c.Kind))
	}
	return nil
}

func checkText(c *Connection) error {
	if c.Owner == "" {
		return bad("owner", "a connection needs an owner, the user who answers for it")
	}
	if len(c.Description) > maxDescription || !utf8.ValidString(c.Description) {
		return bad("description", "must be UTF-8 text of at most %d bytes", maxDescription)
	}
	if c.Timeout < 0 || c.Timeout > MaxTimeout {
		return bad("timeout", "must be between 0 and %s", MaxTimeout)
	}
	if c.Secret != "" && !secretForm.MatchString(c.Secret) {
		return bad("secret", "%q is not the name of a secret", clip(c.Secret))
	}
	return nil
}

func checkTarget(c *Connection) error {
	switch {
	case c.URL != "" && len(c.Command) > 0:
		return bad("command", "give either a url or a command")
	case c.Kind == Retrieval:
		return checkEngine(c)
	case c.URL != "":
		clean, err := checkURL(c.URL, c.AllowPrivate)
		c.URL = clean
		return err
	case c.Kind == LLM:
		return bad("url", "an llm connection needs the base URL of its provider")
	case c.Kind == HTTP:
		return bad("url", "an http connection needs the base URL of its API")
	case len(c.Command) == 0:
		return bad("url", "an mcp connection needs a url (Streamable HTTP) or a command (stdio)")
	case c.AllowPrivate:
		return bad("allow_private", "a command has no address; leave it out")
	}
	return checkCommand(c.Command)
}

// checkCommand holds what is started to a program named by an absolute path or
// looked up in PATH, and keeps secrets out of /proc/*/cmdline.
func checkCommand(command []string) error {
	if len(command) > maxArgs {
		return bad("command", "at most %d arguments", maxArgs)
	}
	for i, arg := range command {
		field := fmt.Sprintf("command[%d]", i)
		switch {
		case len(arg) > maxArg || strings.ContainsRune(arg, 0) || !utf8.ValidString(arg):
			return bad(field, "must be UTF-8 text of at most %d bytes without NUL", maxArg)
		case strings.Contains(arg, SecretScheme):
			return bad(field, "arguments are visible to every process on the machine; give the secret in env")
		}
	}
	program := command[0]
	if program == "" || (strings.ContainsAny(program, `/\`) && !filepath.IsAbs(program)) || strings.HasPrefix(program, "-") {
		return bad("command[0]", "%q must be an absolute path, or a name to look up in PATH", clip(program))
	}
	return nil
}

func checkEnv(c *Connection) error {
	if len(c.Env) > 0 && len(c.Command) == 0 {
		return bad("env", "only a connection with a command has an environment")
	}
	if len(c.Env) > maxEnv {
		return bad("env", "at most %d variables", maxEnv)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Env)) {
		value, field := c.Env[key], "env."+clip(key)
		if !envForm.MatchString(key) {
			return bad(field, "is not the name of an environment variable")
		}
		if len(value) > maxArg || strings.ContainsRune(value, 0) || !utf8.ValidString(value) {
			return bad(field, "must be UTF-8 text of at most %d bytes without NUL", maxArg)
		}
		if ref, ok := strings.CutPrefix(value, SecretScheme); ok {
			name, part, parted := strings.Cut(ref, "#")
			if !secretForm.MatchString(name) || parted && !slices.Contains(SecretParts, part) {
				return bad(field, "%q does not name a secret; write secret://name, or secret://name#PART for a part of a URL (%s)", clip(value), strings.Join(SecretParts, ", "))
			}
		}
	}
	return nil
}

func checkCapture(c *Connection) error {
	switch c.Capture {
	case "":
		c.Capture = CaptureRedacted
	case CaptureFull, CaptureRedacted, CaptureDigest:
	default:
		return bad("capture", "%q must be full, redacted or digest", clip(c.Capture))
	}
	return nil
}

func checkProposes(c *Connection) error {
	if wrong := checkProposal(c.Proposal); wrong != "" {
		return bad("proposal", "%s", wrong)
	}
	return nil
}

// reserved headers carry the request itself; a secret in them would break it.
var reserved = []string{"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection",
	"te", "trailer", "upgrade", "keep-alive", "proxy-connection", "expect", "accept", "accept-encoding"}

func checkAuth(c *Connection) error {
	if c.Auth == "" {
		c.Auth = defaultAuth(c)
	}
	name, own := strings.CutPrefix(c.Auth, AuthHeader)
	switch {
	case own && (!headerForm.MatchString(name) || slices.Contains(reserved, strings.ToLower(name))):
		return bad("auth", "%q is not a header that can carry a secret", clip(name))
	case !own && !slices.Contains([]string{AuthBearer, AuthAPIKey, AuthBasic, AuthNone}, c.Auth):
		return bad("auth", "%q must be bearer, x-api-key, basic, none or header:NAME", clip(c.Auth))
	case len(c.Command) > 0 && (c.Auth != AuthNone || c.Secret != ""):
		return bad("auth", "a command has no requests to sign; give it secrets as secret://name in env")
	case c.Auth == AuthNone && c.Secret != "":
		return bad("secret", "auth none sends no secret; leave one of them out")
	case c.Auth != AuthNone && c.Secret == "":
		return bad("secret", "auth %s needs a secret; name one, or set auth: none", clip(c.Auth))
	}
	return nil
}

func defaultAuth(c *Connection) string {
	switch {
	case len(c.Command) > 0 && c.Secret == "":
		return AuthNone
	case c.Dialect == Anthropic:
		return AuthAPIKey
	case (c.Dialect == Git || c.Dialect == Postgres) && c.Secret != "":
		return AuthBasic
	case c.Kind == LLM || c.Secret != "":
		return AuthBearer
	}
	return AuthNone
}

// ServesTools reports whether the connection is an MCP server to agents.
func (c Connection) ServesTools() bool { return c.Kind == MCP || c.Kind == Retrieval }

// SecretNames returns the secrets c refers to, sorted, each once.
func (c Connection) SecretNames() []string {
	set := map[string]bool{}
	if c.Secret != "" {
		set[c.Secret] = true
	}
	if guard, ok := c.Guarding(); ok && guard.Secret != "" {
		set[guard.Secret] = true
	}
	for _, v := range c.Env {
		if ref, ok := strings.CutPrefix(v, SecretScheme); ok {
			name, _, _ := strings.Cut(ref, "#")
			set[name] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// same reports whether two connections say the same, whatever their
// identifiers and times.
func (c Connection) same(d Connection) bool {
	return c.Name == d.Name && c.Kind == d.Kind && c.Dialect == d.Dialect && c.URL == d.URL &&
		slices.Equal(c.Command, d.Command) && maps.Equal(c.Env, d.Env) && c.Owner == d.Owner && c.Secret == d.Secret &&
		c.Auth == d.Auth && c.Description == d.Description && c.AllowPrivate == d.AllowPrivate && c.Timeout == d.Timeout && c.Capture == d.Capture && c.Proposal == d.Proposal &&
		reflect.DeepEqual(c.Retrieval, d.Retrieval) && maps.Equal(c.Inspect, d.Inspect) && slices.Equal(c.Stages, d.Stages)
}

// clip shortens foreign text for a message.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
