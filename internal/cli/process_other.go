//go:build !unix

package cli

import (
	"os"
	"os/exec"
)

// own does nothing: there are no process groups here.
func own(*exec.Cmd) {}

// end ends cmd. One that is gone already is no error.
func end(cmd *exec.Cmd, _ os.Signal) { _ = cmd.Process.Kill() }
