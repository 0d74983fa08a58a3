// The log: requests are appended to the batch of the moment, full or old batches are copied to PostgreSQL.
//
// A batch is two flat slices, rows and their text, used again and again, so that a logged request costs a
// copy and no allocation. Full batches wait in a bounded channel; when the database falls behind, append
// waits too, and nothing is dropped.
package main

import (
	"context"
	"log"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
	"github.com/valyala/fasthttp"
)

const (
	logTable      = "bench_go_log"
	batchRows     = 10_000
	batchText     = 4 << 20
	batchInterval = 250 * time.Millisecond
	batchesQueued = 20
	retryAfter    = 500 * time.Millisecond
	createSQL     = `CREATE TABLE IF NOT EXISTS ` + logTable + ` (
		time timestamptz NOT NULL, id uuid NOT NULL, endpoint text NOT NULL, params jsonb NOT NULL,
		user_agent text, referer text, address inet, language text
	) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)`
)

var logColumns = []string{
	"time", "id", "endpoint", "params", "user_agent", "referer", "address", "language",
}

// span is a piece of a batch's text; empty stands for NULL.
type span struct{ from, to int }

type row struct {
	at                                time.Time
	id                                [16]byte
	endpoint                          string
	address                           net.IP
	params, agent, referer, languages span
}

type batch struct {
	rows []row
	text []byte
}

func newBatch() *batch {
	return &batch{rows: make([]row, 0, batchRows), text: make([]byte, 0, batchText)}
}

type logWriter struct {
	mu      sync.Mutex
	current *batch

	full   chan *batch
	empty  sync.Pool
	done   chan struct{}
	ticker *time.Ticker
	ids    idSource
}

func newLogWriter(dsn string) *logWriter {
	w := &logWriter{
		current: newBatch(),
		full:    make(chan *batch, batchesQueued),
		empty:   sync.Pool{New: func() interface{} { return newBatch() }},
		done:    make(chan struct{}),
		ticker:  time.NewTicker(batchInterval),
		ids:     newIDSource(),
	}
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		log.Fatalf("cannot connect: %v", err)
	}
	if _, err := conn.Exec(context.Background(), createSQL); err != nil {
		log.Fatalf("cannot create %s: %v", logTable, err)
	}
	go w.copyBatches(dsn, conn)
	go func() {
		for range w.ticker.C {
			w.mu.Lock()
			if len(w.current.rows) > 0 && len(w.full) == 0 {
				w.send()
			}
			w.mu.Unlock()
		}
	}()
	return w
}

// scratch is the text of one row while it is put together outside the lock.
type scratch struct{ text []byte }

var scratches = sync.Pool{New: func() interface{} { return &scratch{} }}

func (w *logWriter) append(ctx *fasthttp.RequestCtx, endpoint string) {
	s := scratches.Get().(*scratch)
	r := row{at: ctx.Time(), endpoint: endpoint, address: ctx.RemoteIP()}
	r.id = w.ids.next(r.at)
	text := appendParams(s.text[:0], ctx.QueryArgs())
	r.params = span{0, len(text)}
	headers := &ctx.Request.Header
	text = appendText(text, headers.UserAgent())
	r.agent = span{r.params.to, len(text)}
	text = appendText(text, headers.Referer())
	r.referer = span{r.agent.to, len(text)}
	text = appendText(text, headers.Peek(fasthttp.HeaderAcceptLanguage))
	r.languages = span{r.referer.to, len(text)}
	s.text = text

	w.mu.Lock()
	b := w.current
	offset := len(b.text)
	for _, s := range []*span{&r.params, &r.agent, &r.referer, &r.languages} {
		s.from += offset
		s.to += offset
	}
	b.text = append(b.text, text...)
	b.rows = append(b.rows, r)
	if len(b.rows) == batchRows {
		w.send()
	}
	w.mu.Unlock()
	scratches.Put(s)
}

// send is called with the lock held: while the channel is full, so are all who append.
func (w *logWriter) send() {
	w.full <- w.current
	w.current = w.empty.Get().(*batch)
}

func (w *logWriter) close() {
	w.ticker.Stop()
	w.mu.Lock()
	w.send()
	close(w.full)
	w.mu.Unlock()
	<-w.done
}

func (w *logWriter) copyBatches(dsn string, conn *pgx.Conn) {
	defer close(w.done)
	for b := range w.full {
		for {
			_, err := conn.CopyFrom(context.Background(), pgx.Identifier{logTable}, logColumns, newRowSource(b))
			if err == nil {
				break
			}
			log.Printf("copy: %v", err)
			conn.Close(context.Background())
			time.Sleep(retryAfter)
			if again, err := pgx.Connect(context.Background(), dsn); err == nil {
				conn = again
			}
		}
		b.rows, b.text = b.rows[:0], b.text[:0]
		w.empty.Put(b)
	}
	conn.Close(context.Background())
}

// rowSource hands a batch to COPY through one set of values. Text goes as Bytea, whose binary form is
// the same and which takes bytes without making a string of them.
type rowSource struct {
	batch                              *batch
	next                               int
	at                                 pgtype.Timestamptz
	id                                 pgtype.UUID
	endpoint                           pgtype.Text
	params                             pgtype.JSONB
	userAgent, refererText, acceptText pgtype.Bytea
	network                            net.IPNet
	address                            pgtype.Inet
	values                             []interface{}
}

var (
	oneIPv4 = net.CIDRMask(32, 32)
	oneIPv6 = net.CIDRMask(128, 128)
)

func newRowSource(b *batch) *rowSource {
	s := &rowSource{batch: b}
	s.at.Status = pgtype.Present
	s.id.Status = pgtype.Present
	s.endpoint.Status = pgtype.Present
	s.params.Status = pgtype.Present
	s.address = pgtype.Inet{IPNet: &s.network, Status: pgtype.Present}
	s.values = []interface{}{
		&s.at, &s.id, &s.endpoint, &s.params, &s.userAgent, &s.refererText, &s.address, &s.acceptText,
	}
	return s
}

func (s *rowSource) Next() bool { return s.next < len(s.batch.rows) }

func (s *rowSource) Err() error { return nil }

func (s *rowSource) Values() ([]interface{}, error) {
	r := &s.batch.rows[s.next]
	s.next++
	s.at.Time = r.at
	s.id.Bytes = r.id
	s.endpoint.String = r.endpoint
	s.params.Bytes = s.batch.text[r.params.from:r.params.to]
	s.setText(&s.userAgent, r.agent)
	s.setText(&s.refererText, r.referer)
	s.setText(&s.acceptText, r.languages)
	if four := r.address.To4(); four != nil {
		s.network = net.IPNet{IP: four, Mask: oneIPv4}
	} else {
		s.network = net.IPNet{IP: r.address, Mask: oneIPv6}
	}
	return s.values, nil
}

func (s *rowSource) setText(to *pgtype.Bytea, from span) {
	to.Bytes = s.batch.text[from.from:from.to]
	to.Status = pgtype.Present
	if from.from == from.to {
		to.Status = pgtype.Null
	}
}
