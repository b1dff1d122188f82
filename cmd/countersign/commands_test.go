package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/rogpeppe/go-internal/testscript"
)

func part(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: part VAR NAME [ARGUMENT...]")
	}
	cmd := exec.Command("countersign", append([]string{"example"}, args[1:]...)...)
	cmd.Path = findBinary(ts)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = environ(ts)
	log := &bytes.Buffer{}
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ok {
		ts.Fatalf("%s did not start: %v %s\n%s", args[1], err, line, log)
	}
	ts.Setenv(args[0], address)
}

// enrolment is a program that waits for a person.
type enrolment struct {
	cmd  *exec.Cmd
	out  *bytes.Buffer
	done chan error
}

type enrolKey struct{}

var enrolCode = regexp.MustCompile(`enrol approve ([A-Z]{4}-[A-Z]{4})`)

func enrolling(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: enrolling VAR ARGUMENT...")
	}
	e := ts.Value(enrolKey{}).(*enrolment)
	e.cmd, e.out, e.done = exec.Command("countersign", args[1:]...), &bytes.Buffer{}, make(chan error, 1)
	e.cmd.Path, e.cmd.Dir, e.cmd.Stdout = findBinary(ts), ts.Getenv("WORK"), e.out
	e.cmd.Env = append(environ(ts), "COUNTERSIGN_URL="+ts.Getenv("URL"), "COUNTERSIGN_DATA=nowhere")
	stderr, err := e.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(e.cmd.Start())
	ts.Defer(func() { e.cmd.Process.Kill() })
	in := bufio.NewReader(stderr)
	for {
		line, err := in.ReadString('\n')
		if m := enrolCode.FindStringSubmatch(line); m != nil {
			ts.Setenv(args[0], m[1])
			go func() {
				io.Copy(io.Discard, in)
				e.done <- e.cmd.Wait()
			}()
			return
		}
		if err != nil {
			ts.Fatalf("no code was shown: %v", err)
		}
	}
}

func enrolled(ts *testscript.TestScript, neg bool, _ []string) {
	e := ts.Value(enrolKey{}).(*enrolment)
	select {
	case err := <-e.done:
		if (err != nil) != neg {
			ts.Fatalf("it ended: %v", err)
		}
	case <-time.After(2 * time.Minute):
		ts.Fatalf("it still waits")
	}
	fmt.Fprint(ts.Stdout(), e.out)
}

func federate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: federate VAR CA SUBJECT")
	}
	serving(ts, args[0], "issuer", args[1:]...)
}

// provide starts an OpenID provider for people.
func provide(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: provide VAR CA")
	}
	serving(ts, args[0], "idp", args[1])
}

// serving starts a program that prints where it serves, and sets a variable to it.
func serving(ts *testscript.TestScript, variable, program string, args ...string) {
	cmd := exec.Command(program, args...)
	cmd.Path = filepath.Join(filepath.Dir(findBinary(ts)), program)
	cmd.Dir, cmd.Env = ts.Getenv("WORK"), environ(ts)
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ok {
		ts.Fatalf("%s did not start: %v %s", program, err, line)
	}
	ts.Setenv(variable, address)
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: capture VAR FILE REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[2])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile(args[1]))
	if len(m) < 2 {
		ts.Fatalf("nothing in %s matches %s", args[1], args[2])
	}
	ts.Setenv(args[0], m[1])
}

// flip FILE OFFSET changes one bit of a file.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := []byte(ts.ReadFile(args[0]))
	b[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP PROGRAM ARGUMENT...")
	}
	want := regexp.MustCompile(args[0])
	// Each look starts a process: the longer it takes, the more rarely it looks.
	for wait, deadline := 50*time.Millisecond, time.Now().Add(time.Minute); ; wait = min(2*wait, 400*time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s never said %s (%v): %s%s", strings.Join(args[1:], " "), args[0], err, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
		}
		time.Sleep(wait)
	}
}

func post(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: post PATH TOKEN FILE")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, ts.Getenv("URL")+args[0], strings.NewReader(ts.ReadFile(args[2])))
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer "+args[1])
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("Mcp-Session-Id", ts.Getenv("SESSION"))
	if ts.Getenv("SESSION") == "" {
		req.Header.Del("Mcp-Session-Id")
	}
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d\nsession %s\n%s\n", resp.StatusCode, resp.Header.Get("Mcp-Session-Id"), body)
	if refused := resp.StatusCode >= 400; refused != neg {
		ts.Fatalf("%s answered %s: %s", args[0], resp.Status, body)
	}
}

// toolbox is an MCP server whose tool changes.
func toolbox() {
	description, err := os.ReadFile(os.Getenv("TOOLBOX"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s := mcp.NewServer(&mcp.Implementation{Name: "toolbox", Version: "1"}, nil)
	type in struct {
		Text string `json:"text"`
	}
	mcp.AddTool(s, &mcp.Tool{Name: "shout", Description: strings.TrimSpace(string(description))},
		func(_ context.Context, _ *mcp.CallToolRequest, x in) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: strings.ToUpper(x.Text)}}}, nil, nil
		})
	if err := s.Run(context.Background(), &mcp.StdioTransport{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
