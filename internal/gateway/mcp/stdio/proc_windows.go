package stdio

import (
	"os/exec"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return nil }

func termGroup(cmd *exec.Cmd) { killGroup(cmd) }

// killGroup ends the child alone: there are no process groups here.
func killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = cmd.Process.Kill()
	}
}
