package command

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/rotation"
)

// ErrCommand says that the program failed.
var ErrCommand = fault.New(fault.Upstream, "rotation_command", "the rotation's command failed")

const (
	maxArgs   = 32
	maxOutput = 128 << 10
	patience  = 25 * time.Second
)

// Rotator runs a program for each step. Its setting is command: a JSON array of
// program and arguments, or a plain program.
//
// The program gets {"step": "create"|"set"|"test"|"retire", "token", "secret",
// "current", "pending", "previous", "admin", "ref", "urgent"}, where what does
// not apply is missing, and must do the step in a way that may be repeated for
// the same token. On create it may answer {"value", "ref"}; without a value one
// of 192 random bits is made. It says that a step failed by its exit status;
// what it writes to standard error goes to Redact and Log.
type Rotator struct {
	Redact func([]byte) []byte       // required for Log to get anything
	Log    func(secret, line string) // may be nil
}

type question struct {
	Step     string `json:"step"`
	Token    string `json:"token"`
	Secret   string `json:"secret"`
	Current  string `json:"current,omitempty"`
	Pending  string `json:"pending,omitempty"`
	Previous string `json:"previous,omitempty"`
	Admin    string `json:"admin,omitempty"`
	Ref      string `json:"ref,omitempty"`
	Urgent   bool   `json:"urgent,omitempty"`
}

type answer struct {
	Value string `json:"value"`
	Ref   string `json:"ref"`
}

// Check implements rotation.Rotator.
func (Rotator) Check(_ secrets.Spec, settings map[string]string) error {
	for k := range settings {
		if k != "command" {
			return rotation.ErrSettings.Say("rotation: %.40q is not a setting of command; it has command, admin, every, overlap", k)
		}
	}
	_, err := program(settings["command"])
	return err
}

func program(text string) ([]string, error) {
	args := []string{text}
	if strings.HasPrefix(text, "[") {
		args = nil
		if err := json.Unmarshal([]byte(text), &args); err != nil {
			return nil, rotation.ErrSettings.Say(`rotation: command: must be a program, or a JSON array such as ["/usr/local/bin/rotate", "db"]`)
		}
	}
	switch {
	case len(args) == 0 || args[0] == "" || len(args) > maxArgs:
		return nil, rotation.ErrSettings.Say("rotation: command: must have a program and at most %d arguments", maxArgs-1)
	case strings.HasPrefix(args[0], "-"), strings.ContainsAny(args[0], `/\`) && !filepath.IsAbs(args[0]):
		return nil, rotation.ErrSettings.Say("rotation: command: %.80q must be an absolute path, or a name to look up in PATH", args[0])
	}
	return args, nil
}

// Create implements rotation.Rotator.
func (r Rotator) Create(ctx context.Context, w rotation.Work) (secrets.Value, string, error) {
	a, err := r.run(ctx, w, "create", "")
	if err != nil {
		return secrets.Value{}, "", err
	}
	if a.Value == "" {
		a.Value = rotation.Random()
	}
	return secrets.NewValue([]byte(a.Value)), a.Ref, nil
}

// Set implements rotation.Rotator.
func (r Rotator) Set(ctx context.Context, w rotation.Work) error {
	_, err := r.run(ctx, w, "set", w.Pending.Ref)
	return err
}

// Test implements rotation.Rotator.
func (r Rotator) Test(ctx context.Context, w rotation.Work) error {
	_, err := r.run(ctx, w, "test", w.Pending.Ref)
	return err
}

// Retire implements rotation.Rotator.
func (r Rotator) Retire(ctx context.Context, w rotation.Work, ref string) error {
	_, err := r.run(ctx, w, "retire", ref)
	return err
}

func (r Rotator) run(ctx context.Context, w rotation.Work, step, ref string) (answer, error) {
	args, err := program(w.Settings["command"])
	if err != nil {
		return answer{}, err
	}
	text := func(v secrets.Value) string { return string(v.Expose()) }
	in, err := json.Marshal(question{Step: step, Token: w.Token, Secret: w.Secret.Name, Current: text(w.Current.Value), Pending: text(w.Pending.Value),
		Previous: text(w.Previous.Value), Admin: text(w.Admin), Ref: ref, Urgent: w.Urgent})
	if err != nil {
		return answer{}, ErrCommand.Say("a secret cannot be written as JSON text; commands need UTF-8")
	}
	defer clear(in)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = time.Second // of those who hold its output open after its end
	cmd.Env = environment()
	cmd.Stdin = bytes.NewReader(in)
	out, complaint := &bounded{most: maxOutput}, &bounded{most: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, complaint
	defer func() { clear(out.b) }()
	err = cmd.Run()
	r.complain(w.Secret.Name, complaint.b)
	switch exit, isExit := errors.AsType[*exec.ExitError](err); {
	case ctx.Err() != nil:
		return answer{}, ErrCommand.Say("the rotation's command did not end within %s at the step %s", patience, step)
	case isExit:
		return answer{}, ErrCommand.Say("the rotation's command failed at the step %s (%s)", step, exit.ProcessState)
	case err != nil:
		return answer{}, ErrCommand.Say("the rotation's command could not be run: %.80q", args[0])
	case out.over:
		return answer{}, ErrCommand.Say("the rotation's command wrote more than %d bytes", maxOutput)
	}
	return read(out.b, step)
}

func read(b []byte, step string) (answer, error) {
	var a answer
	if len(bytes.TrimSpace(b)) == 0 {
		return a, nil
	}
	if err := json.Unmarshal(b, &a, json.RejectUnknownMembers(true)); err != nil {
		return answer{}, ErrCommand.Say(`the rotation's command must answer the step %s with nothing or one JSON object with "value" and "ref"`, step)
	}
	if len(a.Ref) > 256 || strings.ContainsFunc(a.Ref, func(r rune) bool { return r < ' ' }) {
		return answer{}, ErrCommand.Say("the rotation's command answered with a ref of more than 256 bytes or with control characters")
	}
	return a, nil
}

func (r Rotator) complain(secret string, b []byte) {
	if r.Log == nil || r.Redact == nil || len(b) == 0 {
		return
	}
	r.Log(secret, strings.ToValidUTF8(string(r.Redact(bytes.TrimSpace(b))), "\uFFFD"))
}

func environment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "LANG"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	b    []byte
	most int
	over bool
}

// Write implements io.Writer.
func (w *bounded) Write(p []byte) (int, error) {
	room := max(0, w.most-len(w.b))
	w.over = w.over || len(p) > room
	w.b = append(w.b, p[:min(room, len(p))]...)
	return len(p), nil
}
