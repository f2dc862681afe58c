//! Censuses of a managed heap in a recording: what was alive, by type and by container, and who held it.
//!
//! In: a [`Census`] at a time, through the [`Recorder`](super::Recorder). Out: a [`HeapPart`] a process. Invariants: a row
//! is written only for what has changed since the census before, so that hours of a steady heap stay small; a value holds
//! until the next row of its type or container, 0 says that it is gone. No value of the target is in it: names of types,
//! modules and attributes, addresses and counts only.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use rustc_hash::FxHashMap;

use super::read::unsigned;
use crate::clock::Mono;
use crate::error::Result;

/// Who defined a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The service or a library it installed.
    User,
    /// The standard library.
    Library,
    /// The interpreter.
    Builtin,
}

impl Origin {
    const ALL: [Self; 3] = [Self::User, Self::Library, Self::Builtin];

    /// The word in the `heap_type.origin` column and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Library => "library",
            Self::Builtin => "builtin",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.name() == name)
    }
}

/// A census as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CensusHead {
    /// When it began.
    pub at: Mono,
    /// What runs there: `CPython 3.11.7`.
    pub runtime: String,
    /// How long it took, ns.
    pub took_ns: u64,
    /// CPU time of perfkit in it, ns.
    pub cpu_ns: u64,
    /// Objects found.
    pub objects: u64,
    /// Their blocks, bytes.
    pub bytes: u64,
    /// Pieces of memory that changed while they were read, and were left out.
    pub torn: u64,
    /// What kept it from being whole; empty when nothing did.
    pub missing: String,
}

/// Instances of a type that are alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeCount {
    /// `npc.memory.NpcState`, `dict`.
    pub name: String,
    /// Who defined it.
    pub origin: Origin,
    /// How many.
    pub count: u64,
    /// Their blocks, bytes; what they point to is not in it.
    pub bytes: u64,
}

/// A container that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerLength {
    /// Where it is.
    pub address: u64,
    /// Its type: `dict`, `collections.deque`.
    pub kind: String,
    /// Its items.
    pub length: u64,
}

/// What is alive in a heap at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    /// The process: its scope in `reading`.
    pub scope: String,
    /// The census as a whole.
    pub head: CensusHead,
    /// By type; each name once.
    pub types: Vec<TypeCount>,
    /// The larger containers.
    pub containers: Vec<ContainerLength>,
}

/// Who holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// When it was looked for.
    pub at: Mono,
    /// The process: its scope in `reading`.
    pub scope: String,
    /// The type whose instances are held; for a container, the type of its items where they are of one.
    pub held: String,
    /// The container's address, `None` for instances of a type.
    pub container: Option<u64>,
    /// From the root down: `module npc.memory`, `REGISTRY`, `dict`, `NpcState`. Empty: nobody was found.
    pub path: Vec<String>,
    /// Of the instances that were looked at, how many are held this way.
    pub of_sample: (u64, u64),
    /// The most items that the holder lets there be (`lru_cache(maxsize=N)`), where it says so.
    pub limit: Option<u64>,
}

/// Points of a type: time, count, bytes.
pub type TypePoints = Vec<(Mono, u64, u64)>;

/// A heap over time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeapPart {
    /// The process: its scope in `reading`.
    pub scope: String,
    /// The censuses, in time order.
    pub censuses: Vec<CensusHead>,
    /// Points where a type's numbers changed, by its name.
    pub types: BTreeMap<String, (Option<Origin>, TypePoints)>,
    /// Points where a container's length changed, by address and type.
    pub containers: BTreeMap<(u64, String), Vec<(Mono, u64)>>,
    /// Who holds what, as it was found.
    pub holders: Vec<Holder>,
}

impl HeapPart {
    /// Count and bytes of `name` at `at`: those of the last census by then, 0 before it was first seen.
    pub fn type_at(&self, name: &str, at: Mono) -> (u64, u64) {
        let points = self.types.get(name).map_or(&[][..], |(_, p)| p);
        let after = points.partition_point(|p| p.0 <= at);
        after.checked_sub(1).and_then(|i| points.get(i)).map_or((0, 0), |p| (p.1, p.2))
    }

    /// Length of a container at `at`; 0 before it was first seen.
    pub fn length_at(&self, container: &(u64, String), at: Mono) -> u64 {
        let points = self.containers.get(container).map_or(&[][..], Vec::as_slice);
        let after = points.partition_point(|p| p.0 <= at);
        after.checked_sub(1).and_then(|i| points.get(i)).map_or(0, |p| p.1)
    }
}

/// A row of a census: something that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Type { id: u32, count: u64, bytes: u64 },
    Container { address: u64, id: u32, length: u64 },
}

/// What the store writes.
#[derive(Debug, Default)]
pub(super) struct CensusRows {
    types: Vec<(u32, String, Option<Origin>)>,
    heads: Vec<(u32, String, CensusHead)>,
    changes: Vec<(u32, Change)>,
    holders: Vec<Holder>,
}

/// What the last census of each process said.
#[derive(Debug, Default)]
pub(super) struct CensusTables {
    ids: FxHashMap<String, u32>,
    censuses: u32,
    last: FxHashMap<String, Last>,
}

#[derive(Debug, Default)]
struct Last {
    types: FxHashMap<u32, (u64, u64)>,
    containers: FxHashMap<(u64, u32), u64>,
}

impl CensusTables {
    fn id(&mut self, name: &str, origin: Option<Origin>, rows: &mut CensusRows) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.ids.len() as u32 + 1;
        self.ids.insert(name.to_owned(), id);
        rows.types.push((id, name.to_owned(), origin));
        id
    }

    /// The rows of `census`: what has changed since the one before.
    pub(super) fn put(&mut self, census: &Census, rows: &mut CensusRows) {
        self.censuses += 1;
        let number = self.censuses;
        rows.heads.push((number, census.scope.clone(), census.head.clone()));
        let mut now = Last::default();
        for t in &census.types {
            let id = self.id(&t.name, Some(t.origin), rows);
            now.types.insert(id, (t.count, t.bytes));
        }
        for c in &census.containers {
            let id = self.id(&c.kind, None, rows);
            now.containers.insert((c.address, id), c.length);
        }
        let before = self.last.remove(&census.scope).unwrap_or_default();
        let mut changes: Vec<Change> = Vec::new();
        for (&id, &(count, bytes)) in &now.types {
            if before.types.get(&id) != Some(&(count, bytes)) {
                changes.push(Change::Type { id, count, bytes });
            }
        }
        for (&(address, id), &length) in &now.containers {
            if before.containers.get(&(address, id)) != Some(&length) {
                changes.push(Change::Container { address, id, length });
            }
        }
        let gone = before.types.keys().filter(|id| !now.types.contains_key(id));
        changes.extend(gone.map(|&id| Change::Type { id, count: 0, bytes: 0 }));
        let gone = before.containers.keys().filter(|c| !now.containers.contains_key(c));
        changes.extend(gone.map(|&(address, id)| Change::Container { address, id, length: 0 }));
        // In one order, whatever the hash: the same run gives the same file.
        changes.sort_by_key(|c| match c {
            Change::Type { id, .. } => (0, u64::from(*id), 0),
            Change::Container { address, id, .. } => (1, *address, *id),
        });
        rows.changes.extend(changes.into_iter().map(|c| (number, c)));
        self.last.insert(census.scope.clone(), now);
    }

    pub(super) fn hold(holder: Holder, rows: &mut CensusRows) {
        rows.holders.push(holder);
    }
}

impl CensusRows {
    pub(super) fn write(&self, tx: &Connection) -> rusqlite::Result<()> {
        let mut put = tx.prepare_cached("INSERT OR REPLACE INTO heap_type VALUES (?,?,?)")?;
        for (id, name, origin) in &self.types {
            put.execute(params![id, name, origin.map(Origin::name)])?;
        }
        let mut put = tx.prepare_cached("INSERT OR REPLACE INTO census VALUES (?,?,?,?,?,?,?,?,?,?)")?;
        for (id, scope, h) in &self.heads {
            let numbers = [h.at.0, h.took_ns, h.cpu_ns, h.objects, h.bytes, h.torn].map(|n| n as i64);
            let [at, took, cpu, objects, bytes, torn] = numbers;
            put.execute(params![id, at, scope, h.runtime, took, cpu, objects, bytes, torn, h.missing])?;
        }
        let mut of_type = tx.prepare_cached("INSERT INTO census_type VALUES (?,?,?,?)")?;
        let mut of_container = tx.prepare_cached("INSERT INTO census_container VALUES (?,?,?,?)")?;
        for (census, change) in &self.changes {
            match change {
                Change::Type { id, count, bytes } => {
                    of_type.execute(params![census, id, *count as i64, *bytes as i64])?
                }
                Change::Container { address, id, length } => {
                    of_container.execute(params![census, *address as i64, id, *length as i64])?
                }
            };
        }
        let mut put = tx.prepare_cached("INSERT INTO holder VALUES (?,?,?,?,?,?,?,?)")?;
        for h in &self.holders {
            // Names of attributes hold no line break; one in a hostile name is shown as a space.
            let path: Vec<String> = h.path.iter().map(|p| p.replace('\n', " ")).collect();
            let (found, sample) = h.of_sample;
            let address = h.container.map(|a| a as i64);
            let row = params![
                h.at.0 as i64,
                h.scope,
                h.held,
                address,
                path.join("\n"),
                found as i64,
                sample as i64,
                h.limit.map(|l| l as i64)
            ];
            put.execute(row)?;
        }
        Ok(())
    }
}

/// Reads every heap of a recording, the processes in the order of their first census.
pub(super) fn load(db: &Connection) -> Result<Vec<HeapPart>> {
    let mut parts: Vec<HeapPart> = Vec::new();
    let mut censuses: BTreeMap<i64, (usize, Mono)> = BTreeMap::new();
    let mut q = db.prepare(
        "SELECT id, at_ns, scope, took_ns, cpu_ns, objects, bytes, torn, missing, runtime FROM census ORDER BY at_ns, id",
    )?;
    let rows = q.query_map([], |r| {
        let (at, took_ns, cpu_ns) = (Mono(unsigned(r, 1)?), unsigned(r, 3)?, unsigned(r, 4)?);
        let (objects, bytes, torn) = (unsigned(r, 5)?, unsigned(r, 6)?, unsigned(r, 7)?);
        let (missing, runtime) = (r.get(8)?, r.get(9)?);
        let head = CensusHead { at, runtime, took_ns, cpu_ns, objects, bytes, torn, missing };
        Ok((r.get::<_, i64>(0)?, r.get::<_, String>(2)?, head))
    })?;
    for row in rows {
        let (id, scope, head) = row?;
        let part = part_of(&mut parts, &scope);
        censuses.insert(id, (part, head.at));
        parts[part].censuses.push(head);
    }
    // Rows that name a census or a type which is not there are of a cut or damaged file: what they say has no time or name.
    let mut q = db.prepare(
        "SELECT c.census, t.name, t.origin, c.count, c.bytes FROM census_type c JOIN heap_type t ON t.id = c.type
         ORDER BY c.census, c.rowid",
    )?;
    let rows = q.query_map([], |r| {
        let origin: Option<String> = r.get(2)?;
        Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?, origin, unsigned(r, 3)?, unsigned(r, 4)?))
    })?;
    for row in rows {
        let (census, name, origin, count, bytes) = row?;
        let Some(&(part, at)) = censuses.get(&census) else { continue };
        let origin = origin.as_deref().and_then(Origin::from_name);
        let entry = parts[part].types.entry(name).or_insert_with(|| (origin, Vec::new()));
        entry.1.push((at, count, bytes));
    }
    let mut q = db.prepare(
        "SELECT c.census, c.address, t.name, c.length FROM census_container c JOIN heap_type t ON t.id = c.type
         ORDER BY c.census, c.rowid",
    )?;
    let rows = q.query_map([], |r| {
        Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)? as u64, r.get::<_, String>(2)?, unsigned(r, 3)?))
    })?;
    for row in rows {
        let (census, address, kind, length) = row?;
        let Some(&(part, at)) = censuses.get(&census) else { continue };
        parts[part].containers.entry((address, kind)).or_default().push((at, length));
    }
    let mut q = db
        .prepare("SELECT at_ns, scope, held, container, path, found, sample, most FROM holder ORDER BY at_ns, rowid")?;
    let rows = q.query_map([], |r| {
        let path: String = r.get(4)?;
        let container: Option<i64> = r.get(3)?;
        Ok(Holder {
            at: Mono(unsigned(r, 0)?),
            scope: r.get(1)?,
            held: r.get(2)?,
            container: container.map(|a| a as u64),
            path: if path.is_empty() { Vec::new() } else { path.split('\n').map(str::to_owned).collect() },
            of_sample: (unsigned(r, 5)?, unsigned(r, 6)?),
            limit: r.get::<_, Option<i64>>(7)?.and_then(|l| u64::try_from(l).ok()),
        })
    })?;
    for row in rows {
        let holder = row?;
        let part = part_of(&mut parts, &holder.scope);
        parts[part].holders.push(holder);
    }
    Ok(parts)
}

fn part_of(parts: &mut Vec<HeapPart>, scope: &str) -> usize {
    parts.iter().position(|p| p.scope == scope).unwrap_or_else(|| {
        parts.push(HeapPart { scope: scope.to_owned(), ..HeapPart::default() });
        parts.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Recorder, Store};

    fn census(at: u64, npcs: u64, registry: u64) -> Census {
        let of = |name: &str, origin, count| TypeCount { name: name.into(), origin, count, bytes: count * 64 };
        let mut types = vec![of("npc.Npc", Origin::User, npcs), of("dict", Origin::Builtin, 500)];
        types.retain(|t| t.count > 0);
        let containers = vec![ContainerLength { address: u64::MAX - 7, kind: "dict".into(), length: registry }];
        let head = CensusHead { at: Mono(at), took_ns: 5, objects: npcs + 500, bytes: 9, ..CensusHead::default() };
        Census { scope: "7".into(), head, types, containers }
    }

    #[test]
    fn a_heap_comes_back_and_only_changes_are_written() {
        let recorder = Recorder::new();
        recorder.census(&census(10, 100, 60));
        recorder.census(&census(20, 150, 110));
        recorder.census(&census(30, 0, 110));
        let holder = Holder {
            at: Mono(31),
            scope: "7".into(),
            held: "npc.Npc".into(),
            container: Some(u64::MAX - 7),
            path: vec!["module npc".into(), "REGISTRY".into(), "dict".into(), "Npc".into()],
            of_sample: (60, 64),
            limit: Some(2000),
        };
        recorder.holder(holder.clone());
        let mut store = Store::in_memory().unwrap();
        store.flush(&recorder).unwrap();
        let rec = store.recording().unwrap();
        let [heap] = &rec.heaps[..] else { panic!("{:?}", rec.heaps) };
        assert_eq!(heap.censuses.len(), 3);
        assert_eq!(heap.types["dict"], (Some(Origin::Builtin), vec![(Mono(10), 500, 32_000)]));
        assert_eq!([5, 10, 25, 40].map(|at| heap.type_at("npc.Npc", Mono(at)).0), [0, 100, 150, 0]);
        assert_eq!(heap.type_at("dict", Mono(40)).0, 500);
        let registry = (u64::MAX - 7, "dict".to_owned());
        assert_eq!(heap.containers[&registry], [(Mono(10), 60), (Mono(20), 110)]);
        assert_eq!(heap.length_at(&registry, Mono(99)), 110);
        assert_eq!(heap.holders, [holder]);
    }
}
