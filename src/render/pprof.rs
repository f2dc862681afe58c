//! pprof's `profile.proto`, gzipped.
//!
//! Two values a sample: samples/count and the profile's clock in nanoseconds. A location is a frame as recorded, with
//! its inlined functions as further lines; modules are mappings, native addresses in the module's own numbering (a
//! mapping begins at 0). What a thread waited for is a label (`-tagleaf=reason` puts it into the picture), as are thread,
//! tid, pid, state and gil. Messages are written one after the other: protobuf reads a concatenation as their merge, so
//! that no more than one sample is in memory.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::protos::{self, Message};
use rustc_hash::FxHashMap;

use super::facts;
use crate::analysis::{Detail, FunctionId, Profile, Weighted};
use crate::clock::Mono;
use crate::record::{Frame, FrameId, FrameKind};

/// The page size to which mappings are rounded.
const PAGE: u64 = 4096;

#[derive(Default)]
struct Builder {
    strings: Vec<String>,
    of_string: FxHashMap<String, i64>,
    functions: Vec<protos::Function>,
    of_function: FxHashMap<FunctionId, u64>,
    locations: Vec<protos::Location>,
    of_frame: FxHashMap<FrameId, u64>,
    mappings: Vec<protos::Mapping>,
    of_module: FxHashMap<String, u64>,
}

/// Writes `profile` as gzipped pprof.
pub(super) fn write(profile: &Profile<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut gz = GzEncoder::new(out, Compression::default());
    let mut b = Builder::default();
    b.string("");
    // The first mapping is taken for the main binary.
    let main = profile.processes.first().map(|p| profile.recording.process(p.process).exe.as_str());
    if let Some(exe) = main.filter(|exe| profile.recording.frames.iter().any(|f| f.module.as_deref() == Some(exe))) {
        b.mapping(exe);
    }
    let head = b.head(profile);
    put(&mut gz, &head)?;
    for w in &profile.weighted {
        let sample = b.sample(profile, w);
        put(&mut gz, &protos::Profile { sample: vec![sample], ..Default::default() })?;
    }
    let (string_table, function) = (b.strings, b.functions);
    let (location, mapping) = (b.locations, b.mappings);
    put(&mut gz, &protos::Profile { string_table, function, location, mapping, ..Default::default() })?;
    gz.finish()?;
    Ok(())
}

fn put(out: &mut dyn Write, part: &protos::Profile) -> io::Result<()> {
    out.write_all(&part.encode_to_vec())
}

impl Builder {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(&at) = self.of_string.get(text) {
            return at;
        }
        let at = self.strings.len() as i64;
        self.strings.push(text.to_owned());
        self.of_string.insert(text.to_owned(), at);
        at
    }

    fn value_type(&mut self, ty: &str, unit: &str) -> protos::ValueType {
        protos::ValueType { ty: self.string(ty), unit: self.string(unit) }
    }

    /// Everything that is said once.
    fn head(&mut self, profile: &Profile<'_>) -> protos::Profile {
        let clock = profile.clock.type_name();
        let mut comments = vec![facts::title(profile), format!("perfkit {}", env!("CARGO_PKG_VERSION"))];
        comments.extend(profile.sampler().map(|s| format!("sampler {s}")));
        comments.extend((profile.lost > 0).then(|| format!("lost: {}", facts::loss_reasons(profile))));
        let period = profile.rates.asked_hz.filter(|hz| *hz > 0.0).map(|hz| (1e9 / hz) as i64);
        protos::Profile {
            sample_type: vec![self.value_type("samples", "count"), self.value_type(clock, "nanoseconds")],
            default_sample_type: self.string(clock),
            time_nanos: wall_ns(profile, profile.window.from).unwrap_or(0),
            duration_nanos: profile.window.length().0 as i64,
            period_type: period.map(|_| self.value_type("cpu", "nanoseconds")),
            period: period.unwrap_or(0),
            comment: comments.iter().map(|c| self.string(c)).collect(),
            ..Default::default()
        }
    }

    fn sample(&mut self, profile: &Profile<'_>, w: &Weighted) -> protos::Sample {
        let rec = profile.recording;
        let mut location_id = Vec::new();
        for frame in rec.leaf_first(w.stack) {
            location_id.extend(self.location(profile, frame));
        }
        if location_id.is_empty() {
            // The remark that stands for what the filters left out.
            let shown = profile.paths.leaf_first(w.node).next();
            location_id.extend(shown.map(|s| self.remark(profile, profile.frames.shown(s).function)));
        }
        let thread = rec.thread(w.thread);
        let mut label = vec![
            self.text_label("thread", &facts::thread_name(thread)),
            self.number_label("tid", thread.tid),
            self.number_label("pid", rec.process(thread.process).pid),
            self.text_label("state", w.state.name()),
        ];
        label.extend(w.reason.map(|reason| self.text_label("reason", reason)));
        if w.gil {
            label.push(self.text_label("gil", "held"));
        }
        protos::Sample { location_id, value: vec![w.samples as i64, w.weight_ns as i64], label }
    }

    fn text_label(&mut self, key: &str, text: &str) -> protos::Label {
        protos::Label { key: self.string(key), str: self.string(text), ..Default::default() }
    }

    fn number_label(&mut self, key: &str, number: u32) -> protos::Label {
        protos::Label { key: self.string(key), num: i64::from(number), ..Default::default() }
    }

    /// The location of a recorded frame; `None` where the filters hide it.
    fn location(&mut self, profile: &Profile<'_>, id: FrameId) -> Option<u64> {
        if let Some(&known) = self.of_frame.get(&id) {
            return Some(known);
        }
        let shown = profile.frames.expansion(id);
        if shown.is_empty() {
            return None;
        }
        let frame = profile.recording.frame(id);
        let mut lines = Vec::new();
        // pprof has the innermost first.
        for &shown in shown.iter().rev() {
            let shown = profile.frames.shown(shown);
            let function_id = self.function(profile, shown.function);
            let line = match (frame.kind, profile.selection.detail) {
                (FrameKind::Python, Detail::Definition) => frame.first_line,
                (FrameKind::Python, Detail::Name) => None,
                _ => shown.line,
            };
            lines.push(protos::Line { function_id, line: line.map_or(0, i64::from) });
        }
        let mapping_id = self.mapping_of(frame);
        let (id_of_new, address) = (self.locations.len() as u64 + 1, frame.address.unwrap_or(0));
        self.locations.push(protos::Location { id: id_of_new, mapping_id, address, line: lines, ..Default::default() });
        self.of_frame.insert(id, id_of_new);
        Some(id_of_new)
    }

    fn remark(&mut self, profile: &Profile<'_>, function: FunctionId) -> u64 {
        let function_id = self.function(profile, function);
        let known = self.locations.iter().find(|l| l.line.iter().any(|l| l.function_id == function_id));
        if let Some(location) = known {
            return location.id;
        }
        let id = self.locations.len() as u64 + 1;
        let line = vec![protos::Line { function_id, line: 0 }];
        self.locations.push(protos::Location { id, line, ..Default::default() });
        id
    }

    fn function(&mut self, profile: &Profile<'_>, id: FunctionId) -> u64 {
        if let Some(&known) = self.of_function.get(&id) {
            return known;
        }
        let key = profile.frames.function(id);
        let at = self.functions.len() as u64 + 1;
        let name = self.string(&key.function);
        let filename = self.string(key.path.as_deref().unwrap_or(""));
        let start_line = key.first_line.map_or(0, i64::from);
        self.functions.push(protos::Function { id: at, name, system_name: name, filename, start_line });
        self.of_function.insert(id, at);
        at
    }

    /// The mapping of a frame's module, widened to hold its address; 0 for frames without one.
    fn mapping_of(&mut self, frame: &Frame) -> u64 {
        let id = match (frame.kind, &frame.module) {
            (FrameKind::Native, Some(module)) => self.mapping(module),
            (FrameKind::Kernel, _) => self.mapping("[kernel.kallsyms]"),
            (FrameKind::Jit, _) => self.mapping("[jit]"),
            _ => return 0,
        };
        let address = frame.address.unwrap_or(0);
        if let Some(m) = self.mappings.get_mut(id as usize - 1) {
            m.memory_limit = m.memory_limit.max((address / PAGE).saturating_add(1).saturating_mul(PAGE));
        }
        id
    }

    fn mapping(&mut self, module: &str) -> u64 {
        if let Some(&known) = self.of_module.get(module) {
            return known;
        }
        let id = self.mappings.len() as u64 + 1;
        let filename = self.string(module);
        // Names, or that there are none, are final: a viewer is not to look for the module on its own machine.
        self.mappings.push(protos::Mapping {
            id,
            filename,
            memory_limit: PAGE,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
            ..Default::default()
        });
        self.of_module.insert(module.to_owned(), id);
        id
    }
}

/// The wall clock at `at`, through the nearest anchor.
fn wall_ns(profile: &Profile<'_>, at: Mono) -> Option<i64> {
    let anchor = profile.recording.anchors.iter().min_by_key(|a| a.mono.0.abs_diff(at.0))?;
    Some(anchor.wall_ns + (at.0 as i64 - anchor.mono.0 as i64))
}
