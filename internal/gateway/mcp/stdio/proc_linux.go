package stdio

import (
	"os/exec"
	"runtime"
	"syscall"
)

// attributes puts a child into a process group of its own, and has the kernel
// end it when the thread that started it does.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// spawner starts all children from one thread that lives as long as it does:
// Pdeathsig is about the parent's thread, and Go ends threads as it likes.
type spawner struct {
	work chan func()
	done chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{work: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for fn := range s.work {
			fn()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	s.work <- func() { result <- cmd.Start() }
	return <-result
}

// close must come after the last start.
func (s *spawner) close() {
	close(s.work)
	<-s.done
}
