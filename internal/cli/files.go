package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/client"
)

// maxFile is the largest file the server takes, in bytes.
const maxFile = 1 << 20

// readFiles reads files and directories of resources; "-" is standard input.
// In a directory it takes .yaml, .yml and .cedar files, subdirectories
// included, and passes over hidden ones and expectations (*_test.yaml). Documents
// that connections name are among what it returns.
func readFiles(paths []string, stdin io.Reader) ([]client.NamedText, error) {
	var files []client.NamedText
	add := func(name string, r io.Reader) error {
		b, err := io.ReadAll(io.LimitReader(r, maxOpenAPI+1))
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case bytes.ContainsRune(b, 0):
			return fmt.Errorf("%s is not a text file", name)
		}
		files = append(files, client.NamedText{Name: filepath.ToSlash(name), Text: string(b)})
		return nil
	}
	for _, path := range paths {
		if path == "-" {
			if err := add("stdin.yaml", stdin); err != nil {
				return nil, err
			}
			continue
		}
		found, err := resourceFiles(path)
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			f, err := os.Open(name)
			if err != nil {
				return nil, err
			}
			err = add(name, f)
			f.Close()
			if err != nil {
				return nil, err
			}
		}
	}
	files, err := withDocuments(files)
	for _, f := range files {
		if len(f.Text) > maxFile && !f.Document && err == nil {
			err = fmt.Errorf("%s is over 1 MiB", f.Name)
		}
	}
	return files, err
}

// withDocuments adds the OpenAPI documents that connections name, which are
// beneath the directory of the file that names them. One that was read as a file
// of resources is none.
func withDocuments(files []client.NamedText) ([]client.NamedText, error) {
	documents := map[string]client.NamedText{}
	for _, f := range files {
		for doc := range resourcesIn(f) {
			name := doc.Spec.OpenAPI.File
			if doc.Kind != "Connection" || doc.State == "absent" || name == "" || !filepath.IsLocal(filepath.FromSlash(name)) {
				continue // the server says what is wrong with a path that leads elsewhere
			}
			at := path.Join(path.Dir(f.Name), name)
			if _, twice := documents[at]; twice {
				continue
			}
			text, err := openBeside(filepath.Dir(filepath.FromSlash(f.Name)), filepath.FromSlash(name))
			if err != nil {
				return nil, fmt.Errorf("connection %s: spec.openapi.file: %w", inert(doc.Name, 63), err)
			}
			documents[at] = client.NamedText{Name: at, Text: text, Document: true}
		}
	}
	files = slices.DeleteFunc(files, func(f client.NamedText) bool { _, is := documents[path.Clean(f.Name)]; return is })
	for _, at := range slices.Sorted(maps.Keys(documents)) {
		files = append(files, documents[at])
	}
	return files, nil
}

func openBeside(dir, name string) (string, error) {
	f, err := os.OpenInRoot(dir, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return documentFrom(f, name)
}

// resource is what the command line reads of a resource itself.
type resource struct {
	Kind, Name, State string
	Spec              struct {
		From    struct{ Env, File string }
		OpenAPI struct{ File string } `yaml:"openapi"`
	}
}

// resourcesIn yields the resources in a file. What cannot be read is left to the
// server, which names the place.
func resourcesIn(f client.NamedText) func(func(resource) bool) {
	return func(yield func(resource) bool) {
		if f.Document || !strings.HasSuffix(f.Name, ".yaml") && !strings.HasSuffix(f.Name, ".yml") {
			return
		}
		dec := yaml.NewDecoder(strings.NewReader(f.Text))
		for {
			var doc resource
			err := dec.Decode(&doc)
			var wrong *yaml.TypeError
			if err != nil && !errors.As(err, &wrong) || !yield(doc) {
				return
			}
		}
	}
}

func resourceFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var found []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch base := filepath.Base(p); {
		case err != nil:
			return err
		case p != path && strings.HasPrefix(base, "."):
			if d.IsDir() {
				return fs.SkipDir
			}
		case d.IsDir(), strings.HasSuffix(base, "_test.yaml"), strings.HasSuffix(base, "_test.yml"):
		case strings.HasSuffix(base, ".yaml"), strings.HasSuffix(base, ".yml"), strings.HasSuffix(base, ".cedar"):
			found = append(found, p)
		}
		return nil
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s holds no .yaml, .yml or .cedar file", path)
	}
	return found, err
}

// sources are the values of secrets that files say where to find, by name of
// the secret, and what could not be found.
type sources struct {
	values  map[string]string
	missing []string
}

// findSecrets looks up what documents of kind Secret say in `from`.
func findSecrets(files []client.NamedText, getenv func(string) string) (sources, error) {
	s := sources{values: map[string]string{}}
	for _, f := range files {
		for doc := range resourcesIn(f) {
			if doc.Kind != "Secret" || doc.State == "absent" {
				continue
			}
			if err := s.find(f.Name, doc.Name, doc.Spec.From.Env, doc.Spec.From.File, getenv); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

func (s *sources) find(in, name, env, file string, getenv func(string) string) error {
	switch {
	case env != "" && file != "":
		// The server says what is wrong with it.
	case env != "":
		if v := getenv(env); v != "" {
			s.values[name] = v
			return nil
		}
		s.missing = append(s.missing, fmt.Sprintf("secret %s: the environment variable %s is not set", name, env))
	case file != "":
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(in), file)
		}
		v, err := readSecretFile(file)
		if errors.Is(err, os.ErrNotExist) {
			s.missing = append(s.missing, fmt.Sprintf("secret %s: there is no file %s", name, file))
			return nil
		}
		if err != nil {
			return fmt.Errorf("secret %s: %w", name, err)
		}
		s.values[name] = v
	}
	return nil
}
