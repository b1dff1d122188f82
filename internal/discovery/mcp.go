package discovery

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"net/url"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// entry is a server in any client's configuration. Each has some of it.
type entry struct {
	Command    word              `json:"command" toml:"command"`
	Args       []string          `json:"args" toml:"args"`
	Env        map[string]string `json:"env" toml:"env"`
	URL        string            `json:"url" toml:"url"`
	HTTPURL    string            `json:"httpUrl" toml:"-"`   // Gemini CLI
	ServerURL  string            `json:"serverUrl" toml:"-"` // Windsurf
	Headers    map[string]string `json:"headers" toml:"http_headers"`
	EnvHeaders map[string]string `json:"-" toml:"env_http_headers"`     // Codex: header -> variable
	BearerEnv  string            `json:"-" toml:"bearer_token_env_var"` // Codex
	Disabled   bool              `json:"disabled" toml:"-"`             // Windsurf, Cline
	Enabled    *bool             `json:"enabled" toml:"enabled"`        // Zed, Codex
}

// word is a command: a string, or, in older settings of Zed, an object.
type word struct {
	Path string            `json:"path"`
	Args []string          `json:"args"`
	Env  map[string]string `json:"env"`
}

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (w *word) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '"' {
		return json.UnmarshalDecode(d, &w.Path)
	}
	type plain word
	return json.UnmarshalDecode(d, (*plain)(w))
}

// UnmarshalText implements encoding.TextUnmarshaler, for TOML.
func (w *word) UnmarshalText(b []byte) error {
	w.Path = string(b)
	return nil
}

// json reads settings of a client: the servers are the members of the object
// that a path of names leads to. Claude Code has them for each project as well.
func (s *scanner) json(client, file string, b []byte, under []string) string {
	v := jsontext.Value(plainJSON(b))
	var top map[string]jsontext.Value
	if err := json.Unmarshal(v, &top); err != nil {
		return "it is no JSON"
	}
	if why := s.under(client, file, top, under); why != "" {
		return why
	}
	var projects map[string]map[string]jsontext.Value
	if client == "claude-code" && top["projects"] != nil && json.Unmarshal(top["projects"], &projects) == nil {
		for _, name := range slices.Sorted(keys(projects)) {
			if why := s.under(client, file, projects[name], under); why != "" {
				return why
			}
		}
	}
	return ""
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (s *scanner) under(client, file string, top map[string]jsontext.Value, under []string) string {
	for _, name := range under[:len(under)-1] {
		var next map[string]jsontext.Value
		if top[name] == nil || json.Unmarshal(top[name], &next) != nil {
			return ""
		}
		top = next
	}
	raw := top[under[len(under)-1]]
	if raw == nil {
		return ""
	}
	var all map[string]jsontext.Value
	if err := json.Unmarshal(raw, &all); err != nil {
		return "its servers are no object"
	}
	for _, name := range slices.Sorted(keys(all)) {
		var e entry
		if err := json.Unmarshal(all[name], &e); err != nil {
			s.problem(file, "the server "+clip(name)+" cannot be read")
			continue
		}
		s.server(client, file, name, e)
	}
	return ""
}

// codex reads the configuration of Codex.
func (s *scanner) codex(file string, b []byte) string {
	var c struct {
		Servers map[string]entry `toml:"mcp_servers"`
	}
	if err := toml.Unmarshal(b, &c); err != nil {
		return "it is no TOML, or its servers have another form" // the cause may show a line of it
	}
	for _, name := range slices.Sorted(keys(c.Servers)) {
		s.server("codex", file, name, c.Servers[name])
	}
	return ""
}

func (s *scanner) server(client, file, name string, e entry) {
	if len(s.found.Servers) >= maxItems {
		return
	}
	x := Server{Name: clip(name), Client: client, File: file, Off: e.Disabled || e.Enabled != nil && !*e.Enabled}
	for _, u := range []string{e.URL, e.HTTPURL, e.ServerURL} {
		if u != "" {
			x.URL = s.address(file, x.Name, u)
		}
	}
	args, env := e.Args, e.Env
	if e.Command.Path != "" {
		if len(e.Command.Args) > 0 {
			args = e.Command.Args
		}
		if len(e.Command.Env) > 0 {
			env = e.Command.Env
		}
		x.Command = append([]string{e.Command.Path}, s.arguments(file, x.Name, args)...)
	}
	for _, k := range slices.Sorted(keys(env)) {
		x.Env = append(x.Env, clip(k))
		if Credential(k) {
			s.secret(file, x.Name, k, env[k])
		}
	}
	for _, k := range slices.Sorted(keys(e.Headers)) {
		if Credential(k) || strings.EqualFold(k, "Authorization") {
			x.Auth = clip(k)
			s.secret(file, x.Name, k, strings.TrimPrefix(e.Headers[k], "Bearer "))
		}
	}
	for _, k := range slices.Sorted(keys(e.EnvHeaders)) {
		x.Auth = clip(k)
		s.secret(file, x.Name, k, "${"+e.EnvHeaders[k]+"}")
	}
	if e.BearerEnv != "" {
		x.Auth = "Authorization"
		s.secret(file, x.Name, "Authorization", "${"+e.BearerEnv+"}")
	}
	s.found.Servers = append(s.found.Servers, x)
}

// address returns a URL without what may be secret in it.
func (s *scanner) address(file, server, text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return ""
	}
	if u.User != nil {
		s.secret(file, server, "user of the URL", u.User.String())
	}
	q := u.Query()
	for _, k := range slices.Sorted(keys(q)) {
		s.secret(file, server, "query "+k, strings.Join(q[k], ","))
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// hidden stands in place of an argument that may be a credential.
const hidden = "<secret>"

// arguments returns a command's arguments without credentials: values of flags
// whose names say so, and whatever looks random or holds a password.
func (s *scanner) arguments(file, server string, args []string) []string {
	var out []string
	next := ""
	for _, a := range args {
		name, value, has := strings.Cut(a, "=")
		flag := strings.TrimLeft(name, "-")
		switch {
		case next != "":
			s.secret(file, server, next, a)
			out, next = append(out, hidden), ""
		case has && Credential(flag):
			s.secret(file, server, flag, value)
			out = append(out, name+"="+hidden)
		case strings.HasPrefix(a, "-") && Credential(flag):
			next = flag
			out = append(out, a)
		case random(a) || strings.Contains(a, "://") && strings.Contains(a, "@"):
			s.secret(file, server, "argument", a)
			out = append(out, hidden)
		default:
			out = append(out, clip(a))
		}
	}
	return out
}

// random reports whether a text looks like a token: long, without a path or a
// space, of letters and digits mixed.
func random(t string) bool {
	if len(t) < 20 || strings.ContainsAny(t, "/ @:.") {
		return false
	}
	digit, letter := strings.ContainsAny(t, "0123456789"), strings.ContainsFunc(t, func(r rune) bool { return 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' })
	return digit && letter
}

// plainJSON removes comments and commas before a closing bracket: VS Code and
// Zed allow both.
func plainJSON(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '"':
			j := i + 1
			for j < len(b) && b[j] != '"' {
				if b[j] == '\\' {
					j++
				}
				j++
			}
			j = min(j+1, len(b))
			out = append(out, b[i:j]...)
			i = j - 1
		case b[i] == '/' && i+1 < len(b) && b[i+1] == '/':
			for i < len(b) && b[i] != '\n' {
				i++
			}
		case b[i] == '/' && i+1 < len(b) && b[i+1] == '*':
			end := strings.Index(string(b[i+2:]), "*/")
			if end < 0 {
				return out
			}
			i += end + 3
		case b[i] == '}' || b[i] == ']':
			k := len(out)
			for k > 0 && strings.IndexByte(" \t\r\n", out[k-1]) >= 0 {
				k--
			}
			if k > 0 && out[k-1] == ',' {
				out = append(out[:k-1], out[k:]...)
			}
			out = append(out, b[i])
		default:
			out = append(out, b[i])
		}
	}
	return out
}
