// Peer: fasthttp and pgx, what a Go team would write for the two tests of scripts/bench.
//
// GET /log logs the request and answers 204; GET /ad looks a row of ad_variant up in a pool of connections
// (pgx prepares the statement once per connection by itself) and answers it as JSON. Log rows go out in
// batches by COPY on a connection of their own (see logwriter.go). --workers is GOMAXPROCS.
//
// Built with Debian's packages, without modules, hence pgx version 4.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
	"github.com/valyala/fasthttp"
)

const (
	lookupSQL = `SELECT id, advertiser_id, campaign_id, width, height, title, image_url, click_url
		FROM ad_variant WHERE id = $1`
	shutdownLimit = 5 * time.Second
)

type server struct {
	pool *pgxpool.Pool
	log  *logWriter
}

// variant is one row of ad_variant with the targets to scan it into, made once and reused.
type variant struct {
	id                       pgtype.UUID
	advertiser, campaign     int32
	width, height            int16
	title, imageURL, landing []byte

	targets []interface{}
	json    []byte
}

var variants = sync.Pool{New: func() interface{} {
	v := &variant{}
	v.targets = []interface{}{
		&v.id, &v.advertiser, &v.campaign, &v.width, &v.height, &v.title, &v.imageURL, &v.landing,
	}
	return v
}}

func (v *variant) appendJSON(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = appendUUID(b, v.id.Bytes)
	b = append(b, `","advertiser_id":`...)
	b = strconv.AppendInt(b, int64(v.advertiser), 10)
	b = append(b, `,"campaign_id":`...)
	b = strconv.AppendInt(b, int64(v.campaign), 10)
	b = append(b, `,"width":`...)
	b = strconv.AppendInt(b, int64(v.width), 10)
	b = append(b, `,"height":`...)
	b = strconv.AppendInt(b, int64(v.height), 10)
	b = append(b, `,"title":`...)
	b = appendJSONString(b, v.title)
	b = append(b, `,"image_url":`...)
	b = appendJSONString(b, v.imageURL)
	b = append(b, `,"click_url":`...)
	b = appendJSONString(b, v.landing)
	return append(b, '}')
}

func (s *server) handle(ctx *fasthttp.RequestCtx) {
	switch string(ctx.Path()) {
	case "/log":
		s.log.append(ctx, "log")
		ctx.SetStatusCode(fasthttp.StatusNoContent)
	case "/ad":
		s.handleAd(ctx)
	default:
		ctx.SetStatusCode(fasthttp.StatusNotFound)
	}
}

func (s *server) handleAd(ctx *fasthttp.RequestCtx) {
	key := pgtype.UUID{Status: pgtype.Present}
	if !parseUUID(ctx.QueryArgs().Peek("id"), &key.Bytes) {
		ctx.SetStatusCode(fasthttp.StatusBadRequest)
		return
	}
	s.log.append(ctx, "ad")

	v := variants.Get().(*variant)
	defer variants.Put(v)
	err := s.pool.QueryRow(context.Background(), lookupSQL, &key).Scan(v.targets...)
	switch {
	case err == nil:
		v.json = v.appendJSON(v.json[:0])
		ctx.SetContentType("application/json")
		ctx.SetBody(v.json)
	case errors.Is(err, pgx.ErrNoRows):
		ctx.SetStatusCode(fasthttp.StatusNoContent)
	default:
		log.Printf("lookup: %v", err)
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
	}
}

func openPool(dsn string, connections int) *pgxpool.Pool {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		log.Fatalf("--dsn: %v", err)
	}
	config.MinConns = int32(connections)
	config.MaxConns = int32(connections)
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	if err != nil {
		log.Fatalf("cannot connect: %v", err)
	}
	return pool
}

func main() {
	host := flag.String("host", "127.0.0.1", "address to listen on")
	port := flag.Int("port", 0, "port to listen on")
	dsn := flag.String("dsn", "", "PostgreSQL connection URI")
	workers := flag.Int("workers", runtime.NumCPU(), "GOMAXPROCS")
	connections := flag.Int("connections", 16, "connections in the pool of lookups")
	flag.Parse()
	runtime.GOMAXPROCS(*workers)

	s := &server{pool: openPool(*dsn, *connections), log: newLogWriter(*dsn)}
	web := &fasthttp.Server{
		Handler:               s.handle,
		NoDefaultServerHeader: true,
		IdleTimeout:           75 * time.Second,
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	failed := make(chan error, 1)
	go func() {
		failed <- web.ListenAndServe(*host + ":" + strconv.Itoa(*port))
	}()
	select {
	case err := <-failed:
		log.Fatalf("cannot serve: %v", err)
	case <-stop:
	}

	drained := make(chan struct{})
	go func() {
		if err := web.Shutdown(); err != nil {
			log.Printf("shutdown: %v", err)
		}
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(shutdownLimit):
	}
	s.log.close()
	s.pool.Close()
}
