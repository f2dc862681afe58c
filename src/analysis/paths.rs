//! The tree of shown stacks: the recording's parent-pointer tree with filters applied and inlined functions spread out.
//!
//! In: the recording's stacks that the selected samples use. Out: a tree of [`Node`]s, and for each such stack the node
//! it ends in. Invariant: a node's parent has a smaller id, and equal paths are one node. The cost is that of the
//! recording's tree nodes in use, not of samples times depth.

use rustc_hash::FxHashMap;

use super::frames::{FrameTable, ShownId};
use crate::record::{Recording, StackId};

/// Index of a [`Node`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The root, which has no frame.
    pub const ROOT: Self = Self(0);
}

/// A shown frame below its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// The caller's node.
    pub parent: NodeId,
    /// The frame.
    pub frame: ShownId,
}

/// The tree of shown stacks.
#[derive(Debug)]
pub struct Paths {
    /// Node `i + 1`; the root has no entry.
    nodes: Vec<Node>,
    /// The end node of stack `i`, [`NodeId::ROOT`] for the empty one and for those not in use.
    ends: Vec<NodeId>,
}

impl Paths {
    /// The tree of the stacks that `used` yields. A stack of which the filters leave nothing gets the frame `hidden`,
    /// the empty stack the frame `empty`, so that no time is lost from the totals.
    pub fn new(
        rec: &Recording,
        frames: &FrameTable,
        used: impl Iterator<Item = StackId>,
        empty: ShownId,
        hidden: ShownId,
    ) -> Self {
        let mut want = vec![false; rec.stacks.len() + 1];
        let mut leaf = vec![false; rec.stacks.len() + 1];
        for stack in used {
            if let Some(slot) = leaf.get_mut(stack.0 as usize) {
                *slot = true;
            }
        }
        for i in (0..want.len()).rev() {
            want[i] |= leaf[i];
            if let Some(stack) = i.checked_sub(1).and_then(|at| rec.stacks.get(at)).filter(|_| want[i]) {
                want[stack.parent.0 as usize] = true;
            }
        }
        let mut tree = Self { nodes: Vec::new(), ends: vec![NodeId::ROOT; want.len()] };
        let mut known: FxHashMap<(NodeId, ShownId), NodeId> = FxHashMap::default();
        for (i, stack) in rec.stacks.iter().enumerate().filter(|(i, _)| want[i + 1]) {
            let mut at = tree.ends[stack.parent.0 as usize];
            for &shown in frames.expansion(stack.frame) {
                at = tree.child(&mut known, at, shown);
            }
            tree.ends[i + 1] = at;
        }
        for (i, _) in leaf.iter().enumerate().filter(|(_, leaf)| **leaf) {
            if tree.ends[i] == NodeId::ROOT {
                tree.ends[i] = tree.child(&mut known, NodeId::ROOT, if i == 0 { empty } else { hidden });
            }
        }
        tree
    }

    fn child(&mut self, known: &mut FxHashMap<(NodeId, ShownId), NodeId>, parent: NodeId, frame: ShownId) -> NodeId {
        *known.entry((parent, frame)).or_insert_with(|| {
            self.nodes.push(Node { parent, frame });
            NodeId(self.nodes.len() as u32)
        })
    }

    /// The node in which a stack ends.
    pub fn end(&self, stack: StackId) -> NodeId {
        self.ends.get(stack.0 as usize).copied().unwrap_or(NodeId::ROOT)
    }

    /// The number of nodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len() + 1
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node; `None` for the root.
    pub fn node(&self, id: NodeId) -> Option<Node> {
        self.nodes.get((id.0 as usize).checked_sub(1)?).copied()
    }

    /// The frames from `id` out to the root, leaf first.
    pub fn leaf_first(&self, id: NodeId) -> impl Iterator<Item = ShownId> {
        let mut at = id;
        std::iter::from_fn(move || {
            let node = self.node(at)?;
            at = node.parent;
            Some(node.frame)
        })
    }

    /// The frames down to `id`, outermost first.
    pub fn root_first(&self, id: NodeId) -> Vec<ShownId> {
        let mut path: Vec<_> = self.leaf_first(id).collect();
        path.reverse();
        path
    }

    /// The weights of all nodes with what is below them, `(samples, ns)`, from their own.
    pub fn totals(&self, own: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut total = own.to_vec();
        for (i, node) in self.nodes.iter().enumerate().rev() {
            let (samples, ns) = total[i + 1];
            let up = &mut total[node.parent.0 as usize];
            *up = (up.0 + samples, up.1 + ns);
        }
        total
    }

    /// Visits every node depth first, `true` on the way in and `false` on the way out.
    pub fn walk(&self, mut visit: impl FnMut(NodeId, ShownId, bool)) {
        let mut starts = vec![0u32; self.len() + 1];
        for node in &self.nodes {
            starts[node.parent.0 as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut free = starts.clone();
        let mut children = vec![NodeId::ROOT; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            let at = &mut free[node.parent.0 as usize];
            children[*at as usize] = NodeId(i as u32 + 1);
            *at += 1;
        }
        let of = |id: NodeId| &children[starts[id.0 as usize] as usize..starts[id.0 as usize + 1] as usize];
        let mut todo: Vec<(NodeId, bool)> = of(NodeId::ROOT).iter().rev().map(|&c| (c, true)).collect();
        while let Some((id, entering)) = todo.pop() {
            let Some(node) = self.node(id) else { continue };
            visit(id, node.frame, entering);
            if entering {
                todo.push((id, false));
                todo.extend(of(id).iter().rev().map(|&c| (c, true)));
            }
        }
    }
}
