package runs

import (
	"context"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/storage"
)

// proposed is a row of proposals.
type proposed struct {
	id string
	digest
	Exchange
	at, until int64
}

// linked is a row of links.
type linked struct {
	digest
	Exchange
	at int64
}

// touched says that a derived run was used.
type touched struct {
	agent, credential string
	at                int64
}

func insert(ctx context.Context, tx *storage.Tx, b *batch) error {
	for _, p := range b.proposals {
		if _, err := tx.Exec(ctx, `INSERT INTO proposals (id, agent, digest, run, memory, call, at, until) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			p.id, p.Agent, p.digest[:], p.Run, p.Memory, p.Call, p.at, p.until); err != nil {
			return err
		}
	}
	for _, l := range b.links {
		if _, err := tx.Exec(ctx, `INSERT INTO links (agent, digest, run, memory, at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (agent, digest, run) DO UPDATE SET at = excluded.at`, l.Agent, l.digest[:], l.Run, l.Memory, l.at); err != nil {
			return err
		}
	}
	for _, t := range b.touches {
		if _, err := tx.Exec(ctx, `UPDATE derived_runs SET last = $3 WHERE agent = $1 AND credential = $2 AND last < $3`, t.agent, t.credential, t.at); err != nil {
			return err
		}
	}
	return nil
}

// among returns "($2, $3, …)" for n parameters from the first on.
func among(first, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(map[bool]string{true: "(", false: ", "}[i == 0])
		b.WriteString("$" + strconv.Itoa(first+i))
	}
	return b.String() + ")"
}

func values(first []any, digests []digest) []any {
	for _, d := range digests {
		first = append(first, d[:])
	}
	return first
}

// linksTo returns where digests of an agent lead, the newest first, at most most.
func linksTo(ctx context.Context, db *storage.DB, agent string, digests []digest, since int64, most int) (out []linked, err error) {
	rows, err := db.Query(ctx, `SELECT digest, run, memory, at FROM links WHERE agent = $1 AND at >= $2 AND digest IN `+among(3, len(digests))+
		` ORDER BY at DESC LIMIT `+strconv.Itoa(most), values([]any{agent, since}, digests)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		l, raw := linked{Exchange: Exchange{Agent: agent}}, []byte(nil)
		if err := rows.Scan(&raw, &l.Run, &l.Memory, &l.at); err != nil {
			return nil, err
		}
		copy(l.digest[:], raw)
		out = append(out, l)
	}
	return out, rows.Err()
}

// openProposal returns the oldest proposal that still counts; of those that
// nobody used yet, if unused.
func openProposal(ctx context.Context, db *storage.DB, agent, run string, digests []digest, now int64, unused bool) (p proposed, found bool, err error) {
	query := `SELECT id, digest, run, memory, call, until FROM proposals WHERE agent = $1 AND until >= $2 AND ($3 = '' OR run = $3) AND digest IN ` + among(4, len(digests))
	if unused {
		query += ` AND used = ''`
	}
	var raw []byte
	p.Agent = agent
	err = db.QueryRow(ctx, query+` ORDER BY at, id LIMIT 1`, values([]any{agent, now, run}, digests)...).Scan(&p.id, &raw, &p.Run, &p.Memory, &p.Call, &p.until)
	if storage.NoRows(err) {
		return p, false, nil
	}
	copy(p.digest[:], raw)
	return p, err == nil, err
}

// claim marks a proposal as used by a call; false if another was faster.
func claim(ctx context.Context, db *storage.DB, id, call string) (won bool, err error) {
	err = db.Tx(ctx, func(tx *storage.Tx) error {
		r, err := tx.Exec(ctx, `UPDATE proposals SET used = $2 WHERE id = $1 AND used = ''`, id, call)
		if err != nil {
			return err
		}
		n, err := r.RowsAffected()
		won = n == 1
		return err
	})
	return won, err
}

// release takes a claim back and lets the proposal count until then, if that is later.
func release(ctx context.Context, db *storage.DB, id, call string, until int64) error {
	return db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE proposals SET used = CASE WHEN used = $2 THEN '' ELSE used END, until = CASE WHEN until < $3 THEN $3 ELSE until END WHERE id = $1`, id, call, until)
		return err
	})
}

// open returns the run of a credential, or begins it: anew after a pause.
func open(ctx context.Context, db *storage.DB, agent, credential, run string, now, paused int64) (id string, started int64, err error) {
	err = db.Tx(ctx, func(tx *storage.Tx) error {
		return tx.QueryRow(ctx, `INSERT INTO derived_runs (agent, credential, run, started, last) VALUES ($1, $2, $3, $4, $4)
			ON CONFLICT (agent, credential) DO UPDATE SET
				run = CASE WHEN derived_runs.last < $5 THEN excluded.run ELSE derived_runs.run END,
				started = CASE WHEN derived_runs.last < $5 THEN excluded.started ELSE derived_runs.started END,
				last = CASE WHEN derived_runs.last < excluded.last THEN excluded.last ELSE derived_runs.last END
			RETURNING run, started`, agent, credential, run, now, paused).Scan(&id, &started)
	})
	return id, started, err
}

// sweep removes what is too old, and of an agent what is too much.
func sweep(ctx context.Context, db *storage.DB, now, kept int64) error {
	return db.Tx(ctx, func(tx *storage.Tx) error {
		for _, q := range []struct {
			text string
			at   int64
		}{{`DELETE FROM proposals WHERE until < $1`, now}, {`DELETE FROM links WHERE at < $1`, kept}, {`DELETE FROM derived_runs WHERE last < $1`, kept}} {
			if _, err := tx.Exec(ctx, q.text, q.at); err != nil {
				return err
			}
		}
		for _, table := range []string{"proposals", "links"} {
			if err := trim(ctx, tx, table); err != nil {
				return err
			}
		}
		return nil
	})
}

func trim(ctx context.Context, tx *storage.Tx, table string) error {
	rows, err := tx.Query(ctx, `SELECT agent FROM `+table+` GROUP BY agent HAVING COUNT(*) > $1`, maxAgent)
	if err != nil {
		return err
	}
	var agents []string
	for rows.Next() {
		var a string
		if err := rows.Scan(&a); err != nil {
			rows.Close()
			return err
		}
		agents = append(agents, a)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return err
	}
	for _, a := range agents {
		if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE agent = $1 AND at < (SELECT at FROM `+table+` WHERE agent = $1 ORDER BY at DESC LIMIT 1 OFFSET `+strconv.Itoa(maxAgent)+`)`, a); err != nil {
			return err
		}
	}
	return nil
}
