//! The call tree behind flame graphs and collapsed stacks: frames by name, roots for processes and threads, and at the
//! leaves what a thread waited for.

use rustc_hash::FxHashMap;

use super::frames::{NameId, clean};
use super::paths::NodeId;
use super::profile::{Profile, Weighted};
use crate::record::{FrameKind, ProcessId, ThreadId};

/// What the width of a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// The number of samples.
    Samples,
    /// Their time in nanoseconds.
    Nanos,
}

/// What kind of thing a node is; flame graphs colour by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tone {
    /// Code.
    Code(FrameKind),
    /// A process or thread at the root.
    Root,
    /// What a thread waited for.
    Wait,
}

/// A node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeNode {
    /// The index of its caller; the root is its own.
    pub parent: u32,
    /// The index of its name.
    name: u32,
    /// Weight of the samples that end here.
    pub own: u64,
    /// Weight with everything below.
    pub total: u64,
}

/// The call tree of a profile. Node 0 is the root, which has no name.
#[derive(Debug)]
pub struct CallTree {
    nodes: Vec<TreeNode>,
    names: Vec<(String, Tone)>,
    /// The children of node `i`, by name, are `children[starts[i]..starts[i + 1]]`.
    children: Vec<u32>,
    starts: Vec<u32>,
}

#[derive(Default)]
struct Builder {
    nodes: Vec<TreeNode>,
    names: Vec<(String, Tone)>,
    of_frame: FxHashMap<NameId, u32>,
    of_root: FxHashMap<(ProcessId, Option<ThreadId>), u32>,
    of_wait: FxHashMap<&'static str, u32>,
    known: FxHashMap<(u32, u32), u32>,
    /// Where a shown stack below a root already stands.
    placed: FxHashMap<(u32, NodeId), u32>,
}

impl CallTree {
    /// The call tree of `profile`, weighted in `unit`.
    pub fn new(profile: &Profile<'_>, unit: Unit) -> Self {
        let mut b = Builder::default();
        b.names.push((String::new(), Tone::Root));
        b.nodes.push(TreeNode { parent: 0, name: 0, own: 0, total: 0 });
        for w in &profile.weighted {
            let root = b.root(profile, w);
            let mut at = b.place(profile, root, w.node);
            if let Some(reason) = w.waits_for() {
                let names = &mut b.names;
                let name = *b.of_wait.entry(reason).or_insert_with(|| {
                    names.push((format!("[{reason}]"), Tone::Wait));
                    names.len() as u32 - 1
                });
                at = b.child(at, name);
            }
            b.nodes[at as usize].own += match unit {
                Unit::Samples => w.samples,
                Unit::Nanos => w.weight_ns,
            };
        }
        b.finish()
    }

    /// The number of nodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing has a weight.
    pub fn is_empty(&self) -> bool {
        self.nodes.first().is_none_or(|n| n.total == 0)
    }

    /// A node. Indices of another tree panic.
    pub fn node(&self, at: u32) -> &TreeNode {
        &self.nodes[at as usize]
    }

    /// A node's name and tone.
    pub fn name(&self, at: u32) -> (&str, Tone) {
        let (text, tone) = &self.names[self.node(at).name as usize];
        (text, *tone)
    }

    /// A node's children, by name.
    pub fn children(&self, at: u32) -> &[u32] {
        let at = at as usize;
        &self.children[self.starts[at] as usize..self.starts[at + 1] as usize]
    }

    /// Every name with its tone.
    pub fn names(&self) -> impl Iterator<Item = (&str, Tone)> {
        self.names.iter().skip(1).map(|(text, tone)| (text.as_str(), *tone))
    }

    /// Calls `visit` with each collapsed stack, `a;b;c`, and its weight, in depth-first order by name. Branches with a
    /// total below `narrowest` are added to their caller, which keeps every other width as it is.
    ///
    /// # Errors
    /// What `visit` returns.
    pub fn collapsed<E>(&self, narrowest: u64, visit: &mut impl FnMut(&str, u64) -> Result<(), E>) -> Result<(), E> {
        let mut line = String::new();
        // (node, length of the line above it)
        let mut todo: Vec<(u32, usize)> = self.children(0).iter().rev().map(|&c| (c, 0)).collect();
        while let Some((at, above)) = todo.pop() {
            line.truncate(above);
            if above > 0 {
                line.push(';');
            }
            line.push_str(self.name(at).0);
            let mut own = self.node(at).own;
            for &child in self.children(at).iter().rev() {
                if self.node(child).total < narrowest {
                    own += self.node(child).total;
                } else {
                    todo.push((child, line.len()));
                }
            }
            if own > 0 {
                visit(&line, own)?;
            }
        }
        Ok(())
    }
}

impl Builder {
    /// The node under which a weighted stack's frames stand.
    fn root(&mut self, profile: &Profile<'_>, w: &Weighted) -> u32 {
        let rec = profile.recording;
        let thread = rec.thread(w.thread);
        let mut at = 0;
        if profile.selection.split.processes && profile.processes.len() > 1 {
            let process = rec.process(thread.process);
            let text = || format!("{} (pid {})", clean(&process.name), process.pid);
            at = self.root_child(at, (thread.process, None), text);
        }
        if profile.selection.split.threads {
            let text = || format!("{} (tid {})", clean(&thread.name), thread.tid);
            at = self.root_child(at, (thread.process, Some(w.thread)), text);
        }
        at
    }

    fn root_child(&mut self, at: u32, key: (ProcessId, Option<ThreadId>), text: impl FnOnce() -> String) -> u32 {
        let names = &mut self.names;
        let name = *self.of_root.entry(key).or_insert_with(|| {
            names.push((text(), Tone::Root));
            names.len() as u32 - 1
        });
        self.child(at, name)
    }

    /// Where the shown stack `node` stands below `root`, made with its callers where it is new.
    fn place(&mut self, profile: &Profile<'_>, root: u32, node: NodeId) -> u32 {
        let mut missing = Vec::new();
        let mut up = node;
        let mut at = root;
        while let Some(shown) = profile.paths.node(up) {
            if let Some(&known) = self.placed.get(&(root, up)) {
                at = known;
                break;
            }
            missing.push((up, profile.frames.shown(shown.frame).name));
            up = shown.parent;
        }
        for (node, frame) in missing.into_iter().rev() {
            let names = &mut self.names;
            let name = *self.of_frame.entry(frame).or_insert_with(|| {
                let name = profile.frames.name(frame);
                names.push((name.text.clone(), Tone::Code(name.kind)));
                names.len() as u32 - 1
            });
            at = self.child(at, name);
            self.placed.insert((root, node), at);
        }
        at
    }

    fn child(&mut self, parent: u32, name: u32) -> u32 {
        let nodes = &mut self.nodes;
        *self.known.entry((parent, name)).or_insert_with(|| {
            nodes.push(TreeNode { parent, name, own: 0, total: 0 });
            nodes.len() as u32 - 1
        })
    }

    fn finish(self) -> CallTree {
        let Self { mut nodes, names, .. } = self;
        for node in &mut nodes {
            node.total = node.own;
        }
        for i in (1..nodes.len()).rev() {
            let (parent, total) = (nodes[i].parent as usize, nodes[i].total);
            nodes[parent].total += total;
        }
        let mut children: Vec<u32> = (1..nodes.len() as u32).collect();
        children.sort_by(|&a, &b| {
            let key = |i: u32| (nodes[i as usize].parent, &names[nodes[i as usize].name as usize].0, i);
            key(a).cmp(&key(b))
        });
        let mut starts = vec![0u32; nodes.len() + 1];
        for node in nodes.iter().skip(1) {
            starts[node.parent as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        CallTree { nodes, names, children, starts }
    }
}
