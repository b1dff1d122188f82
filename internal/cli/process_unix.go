//go:build unix && !linux

package cli

import (
	"os"
	"os/exec"
	"syscall"
)

// own makes cmd the head of a process group.
func own(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// end signals cmd's group. A group that is gone already is no error.
func end(cmd *exec.Cmd, s os.Signal) {
	signal := syscall.SIGKILL
	if s == os.Interrupt {
		signal = syscall.SIGTERM
	}
	_ = syscall.Kill(-cmd.Process.Pid, signal)
}
