package discovery

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of a scan.
const (
	maxFile  = 1 << 20 // bytes of a file; larger ones are problems
	maxFiles = 20_000  // files looked at
	maxDepth = 12      // of directories
	maxItems = 2_000   // servers or names of one file
)

// Secret is a credential that was found by its name. Its value is not here.
type Secret struct {
	Name   string `json:"name"`             // of the variable, header or CI secret
	File   string `json:"file"`             // where it stands
	Server string `json:"server,omitempty"` // the MCP server it is given to
	Digest string `json:"digest,omitempty"` // keyed digest of the value; empty: it only refers to one
	Refers string `json:"refers,omitempty"` // what it refers to: an environment variable, a CI secret, an input
}

// Server is an MCP server in a client's configuration.
type Server struct {
	Name    string   `json:"name"`
	Client  string   `json:"client"` // claude-desktop, claude-code, cursor, vscode, windsurf, zed, codex, gemini
	File    string   `json:"file"`
	URL     string   `json:"url,omitempty"`     // without user, query and fragment
	Command []string `json:"command,omitempty"` // arguments that look like credentials are replaced
	Env     []string `json:"env,omitempty"`     // names
	Auth    string   `json:"auth,omitempty"`    // the header that carries its credential
	Off     bool     `json:"off,omitempty"`     // the client has it switched off
}

// Problem is something that could not be read.
type Problem struct {
	File string `json:"file"`
	Why  string `json:"why"`
}

// Found is what a scan found.
type Found struct {
	Servers  []Server  `json:"servers"`
	Secrets  []Secret  `json:"secrets"`
	Problems []Problem `json:"problems"`
	Files    int       `json:"files"` // that were read
}

// scanner collects what is found.
type scanner struct {
	key   []byte
	seen  int
	found Found
}

// Scan looks through files and directories.
func Scan(paths []string) Found {
	s := &scanner{key: make([]byte, 32), found: Found{Servers: []Server{}, Secrets: []Secret{}, Problems: []Problem{}}}
	rand.Read(s.key) // crypto/rand.Read never fails
	for _, p := range paths {
		s.walk(p)
	}
	return s.found
}

func (s *scanner) problem(file, why string) {
	if len(s.found.Problems) < maxItems {
		s.found.Problems = append(s.found.Problems, Problem{file, why})
	}
}

// skipped are directories that hold other people's code.
var skipped = []string{".git", "node_modules", "vendor", ".venv", "venv", "__pycache__", "target", "dist", ".cache"}

var errEnough = errors.New("enough")

func (s *scanner) walk(root string) {
	info, err := os.Lstat(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.problem(root, "it does not exist")
		return
	case err != nil:
		s.problem(root, "it cannot be read")
		return
	case info.Mode().IsRegular():
		if !s.file(root) {
			s.problem(root, "its name is that of no file that is known here")
		}
		return
	}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, p)
		switch {
		case err != nil:
			s.problem(p, "it cannot be read")
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir() && p != root && (slices.Contains(skipped, d.Name()) || strings.Count(rel, string(filepath.Separator)) >= maxDepth):
			return fs.SkipDir
		case d.Type().IsRegular(): // no link is followed
			s.file(p)
		}
		if s.seen++; s.seen > maxFiles {
			return errEnough
		}
		return nil
	})
	if err != nil {
		s.problem(root, "only a part was looked at: it holds too many files")
	}
}

// file reads a file whose name is known; false if it is not.
func (s *scanner) file(p string) bool {
	read := reader(filepath.ToSlash(p))
	if read == nil {
		return false
	}
	b, why := load(p)
	if why == "" {
		why = read(s, p, b)
	}
	if why != "" {
		s.problem(p, why)
		return true
	}
	s.found.Files++
	return true
}

// load reads a text file, as it was when it was opened.
func load(p string) ([]byte, string) {
	f, err := open(p)
	if err != nil {
		return nil, "it cannot be read"
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, "it is no regular file"
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, "it cannot be read"
	case len(b) > maxFile:
		return nil, "it is over 1 MiB"
	case !utf8.Valid(b) || slices.Contains(b, 0):
		return nil, "it is not text"
	}
	return b, ""
}

type parse func(s *scanner, file string, b []byte) (why string)

// reader says by its name how a file is read.
func reader(p string) parse {
	base := p[strings.LastIndexByte(p, '/')+1:]
	is := func(dir string) bool { return strings.HasSuffix(p, "/"+dir+"/"+base) || p == dir+"/"+base }
	json := func(client string, under ...string) parse {
		return func(s *scanner, file string, b []byte) string { return s.json(client, file, b, under) }
	}
	switch {
	case base == "claude_desktop_config.json":
		return json("claude-desktop", "mcpServers")
	case base == ".mcp.json", base == ".claude.json", is(".claude") && base == "settings.json":
		return json("claude-code", "mcpServers")
	case is(".cursor") && base == "mcp.json":
		return json("cursor", "mcpServers")
	case base == "mcp.json" && (is(".vscode") || is("User")):
		return json("vscode", "servers")
	case base == "settings.json" && (is(".vscode") || is("User")):
		return json("vscode", "mcp", "servers")
	case base == "mcp_config.json":
		return json("windsurf", "mcpServers")
	case base == "settings.json" && (is(".zed") || is("zed")):
		return json("zed", "context_servers")
	case base == "settings.json" && is(".gemini"):
		return json("gemini", "mcpServers")
	case base == "config.toml" && is(".codex"):
		return (*scanner).codex
	case base == ".env", strings.HasPrefix(base, ".env."), strings.HasSuffix(base, ".env"):
		return (*scanner).dotenv
	case is(".github/workflows") && (strings.HasSuffix(base, ".yml") || strings.HasSuffix(base, ".yaml")):
		return (*scanner).github
	case base == ".gitlab-ci.yml":
		return (*scanner).gitlab
	}
	return nil
}

// secret notes a credential: its name and where it is, and of its value what
// cannot be turned back.
func (s *scanner) secret(file, server, name, value string) {
	if len(s.found.Secrets) >= maxItems {
		return
	}
	x := Secret{Name: clip(name), File: file, Server: server}
	if ref := reference(value); ref != "" {
		x.Refers = clip(ref)
	} else if value != "" {
		m := hmac.New(sha256.New, s.key)
		m.Write([]byte(value))
		x.Digest = hex.EncodeToString(m.Sum(nil)[:12])
	}
	s.found.Secrets = append(s.found.Secrets, x)
}

func clip(t string) string {
	if len(t) > 200 {
		return t[:200]
	}
	return t
}

// secretWords are parts of names of variables that hold credentials.
var secretWords = []string{"TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "APIKEY", "ACCESS_KEY", "PRIVATE_KEY", "CREDENTIAL", "AUTH", "_KEY", "_PAT", "DSN", "DATABASE_URL", "CONNECTION_STRING", "WEBHOOK"}

// Credential reports whether a variable of that name holds a credential.
func Credential(name string) bool {
	n := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	return slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(n, w) })
}
