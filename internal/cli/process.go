package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"time"
)

// graceful is how long a child may take to end by itself.
const graceful = 5 * time.Second

// process is a child that ends with us in every case: when ctx does, and, where
// the system can do that, when this process is killed.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // after done
}

// start starts cmd with its descendants as one group.
func start(ctx context.Context, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	own(cmd)
	started := make(chan error, 1)
	go func() {
		// A child's tie to its parent is, on Linux, to the thread that started
		// it. The thread is kept for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	go p.follow(ctx)
	return p, nil
}

// follow ends the group with ctx.
func (p *process) follow(ctx context.Context) {
	select {
	case <-p.done:
		end(p.cmd, os.Kill) // whatever it left behind
		return
	case <-ctx.Done():
	}
	end(p.cmd, os.Interrupt)
	timer := time.NewTimer(graceful)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	}
	end(p.cmd, os.Kill)
}

// wait returns how the child ended.
func (p *process) wait() error {
	<-p.done
	var exit *exec.ExitError
	if errors.As(p.err, &exit) && exit.ExitCode() < 0 {
		return errors.New("it was ended: " + exit.String())
	}
	return p.err
}
