package main

import (
	"bufio"
	"compress/gzip"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// tool is one tool of a suite.
type tool struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Parameters  jsontext.Value `json:"parameters"`
	Annotation  struct {
		Effect string            `json:"effect"` // read, write, egress
		Source string            `json:"source"` // trusted, untrusted
		Roles  map[string]string `json:"roles"`
	} `json:"annotation"`
}

// step is one recorded call.
type step struct {
	Origin   string         `json:"origin"` // user, injected
	Index    int            `json:"index"`
	Function string         `json:"function"`
	Args     jsontext.Value `json:"args"`
	Result   string         `json:"result"`
}

// session is a task, with an attack inside or without.
type session struct {
	Suite     string `json:"suite"`
	ID        string `json:"id"`
	Task      string `json:"user_task"`
	Attack    string `json:"injection_task"`
	Prompt    string `json:"prompt"`
	Steps     []step `json:"steps"`
	Necessary []int  `json:"necessary_injected_calls"`
}

type recording struct {
	tools  map[string]map[string]tool // by suite and name
	honest []session
	hijack []session
}

// irreversible are names of actions that the recorded services cannot take back.
var irreversible = regexp.MustCompile(`^(delete|remove|cancel|drop|purge|erase)`)

// effect is what the tool's owner says of it.
func (t tool) effect() string {
	if t.Annotation.Effect == "read" {
		return "read"
	}
	if irreversible.MatchString(t.Name) || slices.Contains(slices.Collect(maps.Values(t.Annotation.Roles)), "secret") {
		return "irreversible"
	}
	return "write"
}

// roles are those that containment knows.
func (t tool) roles() map[string]string {
	out := map[string]string{}
	for arg, role := range t.Annotation.Roles {
		switch role {
		case "recipient", "object", "amount", "secret":
			out[arg] = role
		}
	}
	return out
}

func read(dir string) (*recording, error) {
	r := &recording{tools: map[string]map[string]tool{}}
	var tools map[string]jsontext.Value
	if err := load(filepath.Join(dir, "tools.json"), &tools); err != nil {
		return nil, err
	}
	for suite, raw := range tools {
		list, err := toolsOf(raw)
		if err != nil {
			return nil, fmt.Errorf("tools of %s: %w", suite, err)
		}
		r.tools[suite] = map[string]tool{}
		for _, t := range list {
			r.tools[suite][t.Name] = t
		}
	}
	var tasks map[string][]session
	if err := load(filepath.Join(dir, "user_tasks.json"), &tasks); err != nil {
		return nil, err
	}
	for _, suite := range slices.Sorted(maps.Keys(tasks)) {
		for _, s := range tasks[suite] {
			s.Suite, s.Task = suite, s.ID
			r.honest = append(r.honest, s)
		}
	}
	return r, r.readPairs(filepath.Join(dir, "pairs.jsonl.gz"))
}

// toolsOf reads a list of tools, or an object of them by name.
func toolsOf(raw jsontext.Value) (list []tool, err error) {
	if raw.Kind() == '[' {
		return list, json.Unmarshal(raw, &list)
	}
	byName := map[string]tool{}
	if err := json.Unmarshal(raw, &byName); err != nil {
		return nil, err
	}
	return slices.Collect(maps.Values(byName)), nil
}

func load(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (r *recording) readPairs(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var s session
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		r.hijack = append(r.hijack, s)
	}
	return lines.Err()
}
