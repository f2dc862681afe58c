-- A perfkit recording. Times are CLOCK_MONOTONIC nanoseconds; `anchor` ties them to the wall clock.
CREATE TABLE meta    (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE anchor  (mono_ns INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL, error_ns INTEGER NOT NULL);
CREATE TABLE process (id INTEGER PRIMARY KEY, pid INTEGER NOT NULL, start_ticks INTEGER NOT NULL, parent INTEGER NOT NULL,
                      name TEXT NOT NULL, exe TEXT NOT NULL, runtime TEXT NOT NULL);
CREATE TABLE thread  (id INTEGER PRIMARY KEY, process INTEGER NOT NULL REFERENCES process, tid INTEGER NOT NULL, name TEXT NOT NULL);
-- kind: python, native, kernel, jit, label. A native frame without a function has not been named (yet). first_line is where a Python
-- function's definition begins.
CREATE TABLE frame   (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, function TEXT, file TEXT, line INTEGER, module TEXT, address INTEGER,
                      first_line INTEGER);
-- Functions inlined at a native frame's address; depth 0 is the outermost, just inside the frame itself.
CREATE TABLE inline  (frame INTEGER NOT NULL REFERENCES frame, depth INTEGER NOT NULL, function TEXT NOT NULL, file TEXT, line INTEGER,
                      PRIMARY KEY (frame, depth)) WITHOUT ROWID;
-- A stack is a node of a tree: its frame was called from parent's frame; parent 0 is the root.
CREATE TABLE stack   (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, frame INTEGER NOT NULL REFERENCES frame);
-- state: 0 on-cpu, 1 off-cpu, 2 runnable, 3 active (running or runnable, not known which). flags: 1 holds the GIL, 2 Python frames present,
-- 4 unwound to the root, 8 not merged, 16 truncated, 32 Python frames lost, 64 approximate, 128 thread has a Python state.
CREATE TABLE sample  (at_ns INTEGER NOT NULL, thread INTEGER NOT NULL REFERENCES thread, stack INTEGER NOT NULL,
                      weight_ns INTEGER NOT NULL, state INTEGER NOT NULL, reason TEXT, flags INTEGER NOT NULL);
CREATE TABLE reading (at_ns INTEGER NOT NULL, metric TEXT NOT NULL, scope TEXT NOT NULL, value REAL NOT NULL);
CREATE TABLE mark    (at_ns INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE loss    (from_ns INTEGER NOT NULL, to_ns INTEGER NOT NULL, source TEXT NOT NULL, count INTEGER NOT NULL, why TEXT NOT NULL);
-- A load run: endpoints, what ended in each window (latency: see record/requests.rs), and what failed.
CREATE TABLE endpoint (id INTEGER PRIMARY KEY, method TEXT NOT NULL, name TEXT NOT NULL);
CREATE TABLE request_window (at_ns INTEGER NOT NULL, endpoint INTEGER NOT NULL REFERENCES endpoint, requests INTEGER NOT NULL,
                      failures INTEGER NOT NULL, bytes INTEGER NOT NULL, latency BLOB NOT NULL);
CREATE TABLE request_error (endpoint INTEGER NOT NULL REFERENCES endpoint, kind TEXT NOT NULL, message TEXT NOT NULL,
                      count INTEGER NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL);
-- The slowest 1 % of a load run's requests, at most 100,000, each whole: due (when it should have been sent), sent, first byte
-- (NULL: none came), end; status NULL: no answer; kind and message NULL: no failure. Latency is end_ns - due_ns.
CREATE TABLE slow_request (endpoint INTEGER NOT NULL REFERENCES endpoint, due_ns INTEGER NOT NULL, sent_ns INTEGER NOT NULL,
                      first_ns INTEGER, end_ns INTEGER NOT NULL, status INTEGER, bytes INTEGER NOT NULL, kind TEXT, message TEXT);
-- Censuses of a managed heap. A row of census_type or census_container is there only for what changed since the census of the process
-- before; it holds until the next one, 0 is gone. scope: as in reading. missing: what kept it from being whole, '' if nothing did.
CREATE TABLE heap_type (id INTEGER PRIMARY KEY, name TEXT NOT NULL, origin TEXT);
CREATE TABLE census   (id INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, scope TEXT NOT NULL, runtime TEXT NOT NULL, took_ns INTEGER NOT NULL, cpu_ns INTEGER NOT NULL,
                      objects INTEGER NOT NULL, bytes INTEGER NOT NULL, torn INTEGER NOT NULL, missing TEXT NOT NULL);
CREATE TABLE census_type (census INTEGER NOT NULL REFERENCES census, type INTEGER NOT NULL REFERENCES heap_type, count INTEGER NOT NULL,
                      bytes INTEGER NOT NULL);
CREATE TABLE census_container (census INTEGER NOT NULL REFERENCES census, address INTEGER NOT NULL, type INTEGER NOT NULL REFERENCES heap_type,
                      length INTEGER NOT NULL);
-- Who holds instances of a type (container NULL) or a container: path from the root down, a step a line; found of sample are held so.
-- most: the most items that the holder lets there be, where it says so.
CREATE TABLE holder   (at_ns INTEGER NOT NULL, scope TEXT NOT NULL, held TEXT NOT NULL, container INTEGER, path TEXT NOT NULL,
                      found INTEGER NOT NULL, sample INTEGER NOT NULL, most INTEGER);
-- The functions that a frame stands for, one inlined into the other: depth 0 is the frame itself, the largest depth the innermost.
CREATE VIEW place AS
  SELECT id AS frame, 0 AS depth, kind, coalesce(function, CASE kind
           WHEN 'native' THEN printf('[%s+0x%x]', coalesce(module, 'unknown'), coalesce(address, 0))
           WHEN 'kernel' THEN '[kernel]' WHEN 'jit' THEN '[jit]' ELSE '?' END) AS function, file, line, first_line, module
    FROM frame
  UNION ALL
  SELECT i.frame, i.depth + 1, f.kind, i.function, i.file, i.line, NULL, f.module FROM inline i JOIN frame f ON f.id = i.frame;
-- The hottest functions by their own time, for `sqlite3 run.perfkit 'select * from hottest limit 20'`. Inlined functions are functions.
CREATE VIEW hottest AS
  SELECT round(100.0 * sum(s.weight_ns) / (SELECT sum(weight_ns) FROM sample WHERE state = s.state), 2) AS self_pct,
         CASE s.state WHEN 0 THEN 'on-cpu' WHEN 1 THEN 'off-cpu' WHEN 2 THEN 'runnable' ELSE 'active' END AS state,
         p.function, p.file, coalesce(p.first_line, p.line) AS line, p.module, count(*) AS samples
    FROM sample s JOIN stack k ON k.id = s.stack
    JOIN place p ON p.frame = k.frame AND p.depth = (SELECT count(*) FROM inline i WHERE i.frame = k.frame)
   GROUP BY s.state, p.kind, p.function, p.module, CASE p.kind WHEN 'python' THEN p.file END, p.first_line
   ORDER BY sum(s.weight_ns) DESC;
