package local

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
)

// Errors of this package.
var (
	ErrName    = fault.New(fault.Invalid, "bad_secret_source", "the source is not valid")
	ErrMissing = fault.New(fault.Unavailable, "secret_source_missing", "there is no such secret on the server's machine")
)

// EnvPrefix begins the variables that may be used.
const EnvPrefix = "COUNTERSIGN_SECRET_"

// Env finds values in the environment: env://COUNTERSIGN_SECRET_OPENAI.
type Env struct {
	Lookup func(string) (string, bool) // os.LookupEnv if nil
}

var variable = regexp.MustCompile(`^` + EnvPrefix + `[A-Z0-9_]{1,100}$`)

// Check implements secrets.Source.
func (Env) Check(ref string) error {
	if !variable.MatchString(ref) {
		return ErrName.Say("source: the variable's name must begin with %s, so that no other can be read", EnvPrefix)
	}
	return nil
}

// Read implements secrets.Source.
func (e Env) Read(_ context.Context, ref string) (secrets.Value, time.Duration, error) {
	if err := (Env{}).Check(ref); err != nil {
		return secrets.Value{}, 0, err
	}
	look := e.Lookup
	if look == nil {
		look = os.LookupEnv
	}
	v, ok := look(ref)
	if !ok || v == "" {
		return secrets.Value{}, 0, ErrMissing.Say("the variable %s is not set in the server's environment", ref)
	}
	return secrets.NewValue([]byte(v)), 0, nil
}

// File finds values in the files of one directory: file://openai-key. They are
// read at each use, so a mounted secret may change at any time.
type File struct{ Dir string }

var fileName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/-]{0,200}$`)

// Check implements secrets.Source.
func (f File) Check(ref string) error {
	if !fileName.MatchString(ref) || !filepath.IsLocal(ref) {
		return ErrName.Say("source: must be file://NAME, a file in %s", f.Dir)
	}
	return nil
}

// Read implements secrets.Source. One line feed at the end is not part of it.
func (f File) Read(_ context.Context, ref string) (secrets.Value, time.Duration, error) {
	if err := f.Check(ref); err != nil {
		return secrets.Value{}, 0, err
	}
	root, err := os.OpenRoot(f.Dir)
	if err != nil {
		return secrets.Value{}, 0, ErrMissing.Say("the directory of secrets %s cannot be opened", f.Dir)
	}
	defer root.Close()
	file, err := root.Open(ref) // follows no link out of the directory
	if err != nil {
		return secrets.Value{}, 0, ErrMissing.Say("the file %s cannot be read in %s", ref, f.Dir)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return secrets.Value{}, 0, ErrMissing.Say("%s in %s is not a file", ref, f.Dir)
	}
	b, err := io.ReadAll(io.LimitReader(file, secrets.MaxValue+2))
	defer clear(b)
	if err != nil {
		return secrets.Value{}, 0, ErrMissing.Say("the file %s cannot be read in %s", ref, f.Dir)
	}
	b2 := bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b2) == 0 || strings.TrimSpace(string(b2)) == "" {
		return secrets.Value{}, 0, ErrMissing.Say("the file %s in %s is empty", ref, f.Dir)
	}
	return secrets.NewValue(b2), 0, nil
}
