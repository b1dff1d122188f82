package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Config is how a server is set up. The zero value of a key means its default.
// Every key is also an environment variable: COUNTERSIGN_ and the key in upper
// case, dots as underscores (COUNTERSIGN_LISTEN, COUNTERSIGN_LOG_LEVEL).
type Config struct {
	// Data is the directory of the embedded database and the key file, made
	// with mode 0700 when missing. Default ./countersign-data.
	Data string `yaml:"data"`
	// Store is the database: a file path, sqlite:PATH or postgres://….
	// Default DATA/countersign.db.
	Store string `yaml:"store"`
	// Listen is the address of every door. Default 127.0.0.1:7470.
	Listen string `yaml:"listen"`
	// AdminListen moves the API to an address of its own. Default: Listen.
	AdminListen string `yaml:"admin_listen"`
	// URL is how clients reach the server from outside. Default http://LISTEN.
	URL string `yaml:"url"`
	// Key seals every secret: a key file's path or a gocloud.dev/secrets URL.
	// Default DATA/key.
	Key string `yaml:"key"`
	// KeyNext is the key that a rekey goes to, in the form of Key, when that is no
	// file, or goes elsewhere. Default: empty; a key file's next one is KEY.next.
	KeyNext string `yaml:"key_next"`
	// Witnesses cosign the log's checkpoints (C2SP tlog-witness). In the file
	// only.
	Witnesses []Witness `yaml:"witnesses"`
	Export    Export    `yaml:"export"`
	Log       Log       `yaml:"log"`
	Tools     Tools     `yaml:"tools"`
	Limits    Limits    `yaml:"limits"`
	OAuth     OAuth     `yaml:"oauth"`
	Leaks     Leaks     `yaml:"leaks"`
	Secrets   Secrets   `yaml:"secrets"`
	OIDC      OIDC      `yaml:"oidc"`
	Lifecycle Lifecycle `yaml:"lifecycle"`
	Posture   Posture   `yaml:"posture"`
	Releases  Releases  `yaml:"releases"`
}

// Releases says what agents need before they may call.
type Releases struct {
	// Required refuses the calls of agents in production that no promoted release
	// binds. Set it alike on every replica. Default false.
	Required bool `yaml:"required"`
}

// Leaks says whose reports of leaked credentials are taken without a user.
type Leaks struct {
	// GitHubKeys is where GitHub publishes the keys that sign its secret scanning
	// alerts: https://api.github.com/meta/public_keys/secret_scanning. Default:
	// empty, alerts are refused.
	GitHubKeys string `yaml:"github_keys"`
}

// Secrets says where secrets may be kept outside the store.
type Secrets struct {
	// Files is the directory of secrets in files. Default DATA/secrets.
	Files string `yaml:"files"`
	Vault Vault  `yaml:"vault"`
}

// Vault says how to reach a Vault or OpenBao server and how to log in: with
// TokenFile, or with RoleID and SecretIDFile.
type Vault struct {
	Address      string `yaml:"address"` // https://HOST:PORT; empty: none
	Namespace    string `yaml:"namespace"`
	Mounts       string `yaml:"mounts"` // KV version 2 mounts that may be read, separated by commas
	TokenFile    string `yaml:"token_file"`
	RoleID       string `yaml:"role_id"`
	SecretIDFile string `yaml:"secret_id_file"`
	AllowPrivate bool   `yaml:"allow_private"` // the address is a private one
}

// OAuth says which programs people may sign in with.
type OAuth struct {
	// Registration lets any program register itself as a client (RFC 7591): for
	// old MCP clients, which know nothing else. Default false.
	Registration bool `yaml:"registration"`
	// PrivateClients lets client metadata documents have private addresses.
	// Default false.
	PrivateClients bool `yaml:"private_clients"`
}

// Witness is somebody else who vouches for the log's checkpoints.
type Witness struct {
	URL string `yaml:"url"` // submission prefix
	Key string `yaml:"key"` // verifier key of its cosignatures (C2SP signed-note)
}

// Log says how the process reports about itself (not the ledger).
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error. Default info.
	Format string `yaml:"format"` // text, json. Default text on a terminal, else json.
}

// Tools says how upstreams' tools are watched.
type Tools struct {
	// Recheck is how often each MCP server's tool definitions are compared with
	// what a person accepted, whether or not an agent asks. Default 15m, at
	// least 1s.
	Recheck time.Duration `yaml:"recheck"`
}

// Limits bound what a client may ask of the server.
type Limits struct {
	ModelBody    int64         `yaml:"model_body"`    // bytes of a model request. Default 32 MiB.
	ToolBody     int64         `yaml:"tool_body"`     // bytes of an MCP message. Default 4 MiB.
	APIBody      int64         `yaml:"api_body"`      // bytes of an HTTP API request that policy reads. Default 8 MiB.
	ReadTimeout  time.Duration `yaml:"read_timeout"`  // for a whole request body. Default 60s.
	IdleStream   time.Duration `yaml:"idle_stream"`   // a stream without a byte is cut. Default 10m.
	HeaderBytes  int           `yaml:"header_bytes"`  // request headers. Default 64 KiB.
	ShutdownWait time.Duration `yaml:"shutdown_wait"` // for calls in flight at the end. Default 15s.
}

// Load reads the file at path (no file if path is empty), then the
// environment, then fills defaults and validates. Unknown keys are errors that
// name file and line.
func Load(path string, environ []string) (Config, error) {
	var c Config
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return c, fmt.Errorf("read configuration: %w", err)
		}
		if err := decode(b, &c); err != nil {
			return c, fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := fromEnviron(reflect.ValueOf(&c).Elem(), "COUNTERSIGN", lookup(environ)); err != nil {
		return c, err
	}
	c.Fill()
	return c, c.Validate()
}

func decode(b []byte, c *Config) error {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func lookup(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "COUNTERSIGN_") {
			m[k] = v
		}
	}
	return m
}

// fromEnviron sets each field of v whose variable is present and not empty.
func fromEnviron(v reflect.Value, prefix string, env map[string]string) error {
	for i := range v.NumField() {
		key := prefix + "_" + strings.ToUpper(v.Type().Field(i).Tag.Get("yaml"))
		field := v.Field(i)
		if field.Kind() == reflect.Slice {
			continue
		}
		if field.Kind() == reflect.Struct {
			if err := fromEnviron(field, key, env); err != nil {
				return err
			}
			continue
		}
		text := env[key]
		// COUNTERSIGN_URL names the server for clients too; both mean the same.
		if text == "" {
			continue
		}
		if err := set(field, text); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

func set(field reflect.Value, text string) error {
	switch field.Interface().(type) {
	case string:
		field.SetString(text)
	case Headers:
		h, err := parseHeaders(text)
		if err != nil {
			return err
		}
		field.Set(reflect.ValueOf(h))
	case Pairs:
		p, err := parsePairs(text)
		if err != nil {
			return err
		}
		field.Set(reflect.ValueOf(p))
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is no duration such as 30s or 10m", text)
		}
		field.SetInt(int64(d))
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		field.SetBool(b)
	default:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is no whole number", text)
		}
		field.SetInt(n)
	}
	return nil
}

// Fill sets every key that is zero to its default.
func (c *Config) Fill() {
	or(&c.Data, "countersign-data")
	or(&c.Store, filepath.Join(c.Data, "countersign.db"))
	or(&c.Key, filepath.Join(c.Data, "key"))
	or(&c.Secrets.Files, filepath.Join(c.Data, "secrets"))
	or(&c.Listen, "127.0.0.1:7470")
	or(&c.URL, "http://"+c.Listen)
	or(&c.Log.Level, "info")
	or(&c.Tools.Recheck, 15*time.Minute)
	c.OIDC.fill()
	c.Lifecycle.fill()
	or(&c.Posture.Keep, 400*24*time.Hour)
	or(&c.Limits.ModelBody, 32<<20)
	or(&c.Limits.ToolBody, 4<<20)
	or(&c.Limits.APIBody, 8<<20)
	or(&c.Limits.ReadTimeout, time.Minute)
	or(&c.Limits.IdleStream, 10*time.Minute)
	or(&c.Limits.HeaderBytes, 64<<10)
	or(&c.Limits.ShutdownWait, 15*time.Second)
}

func or[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// Validate reports what is wrong with c and how to mend it.
func (c *Config) Validate() error {
	var errs []error
	for _, a := range []struct{ key, addr string }{{"listen", c.Listen}, {"admin_listen", c.AdminListen}} {
		if _, _, err := net.SplitHostPort(a.addr); a.addr != "" && err != nil {
			errs = append(errs, fmt.Errorf("%s: %q is no HOST:PORT, such as 127.0.0.1:7470", a.key, a.addr))
		}
	}
	if c.Tools.Recheck < time.Second {
		errs = append(errs, fmt.Errorf("tools.recheck: %s is too often; use at least 1s (the default is 15m)", c.Tools.Recheck))
	}
	if u, err := url.Parse(c.URL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		errs = append(errs, fmt.Errorf("url: %q is no http(s) URL", c.URL))
	}
	if l := c.Log.Level; l != "debug" && l != "info" && l != "warn" && l != "error" {
		errs = append(errs, fmt.Errorf("log.level: %q is not debug, info, warn or error", l))
	}
	if f := c.Log.Format; f != "" && f != "text" && f != "json" {
		errs = append(errs, fmt.Errorf("log.format: %q is not text or json", f))
	}
	if c.Limits.ModelBody < 0 || c.Limits.ToolBody < 0 || c.Limits.APIBody < 0 || c.Limits.HeaderBytes < 0 || c.Limits.ReadTimeout < 0 || c.Limits.IdleStream < 0 || c.Limits.ShutdownWait < 0 {
		errs = append(errs, errors.New("limits: a limit cannot be negative"))
	}
	errs = append(append(append(errs, c.OIDC.validate()...), c.Lifecycle.validate()...), c.Posture.validate()...)
	return errors.Join(append(errs, c.Export.validate()...)...)
}
