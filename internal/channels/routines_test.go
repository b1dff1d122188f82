package channels_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/channels"
	"github.com/countersign/countersign/test/routines"
)

// Delivering leaves nothing behind: at rest there is the one goroutine that
// looks, whatever was told, and after the end not even that, though a channel
// hangs.
func TestNoDeliveryStaysBehind(t *testing.T) {
	each(t, func(w *world) {
		const rooms, sender = "internal/channels", "internal/channels/send"
		routines.Left(t, rooms, 0)
		hang := make(chan struct{})
		bad := w.receiver(func(http.ResponseWriter, int) { <-hang })
		w.t.Cleanup(func() { close(hang) })
		good := w.receiver(func(http.ResponseWriter, int) {})
		w.add("works", channels.Spec{Kind: "webhook", URL: good.URL, Secret: "works", AllowPrivate: true}, map[string]string{"works": key + "works"})
		w.must(w.Start(ctx))
		for i := range 6 {
			w.hold(fmt.Sprintf(`{"cents":%d,"to":"x"}`, i), "finance")
		}
		w.seen(func() bool { return len(good.all()) == 6 })
		routines.Left(t, rooms, 1)
		w.add("hangs", channels.Spec{Kind: "webhook", URL: bad.URL, Secret: "hangs", AllowPrivate: true}, map[string]string{"hangs": key + "hangs"})
		w.hold(`{"cents":99,"to":"x"}`, "finance")
		w.seen(func() bool { return len(bad.all()) == 1 && len(good.all()) == 7 })
		w.must(w.Stop(ctx))
		routines.Left(t, rooms, 0)
		routines.Left(t, sender, 0)
	})
}

// seen waits for what the room does by itself.
func (w *world) seen(ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("it does not become true")
		}
	}
}
