//! Expressions.

use std::sync::Arc;

use ruff_python_ast::{
    BoolOp, CmpOp, Comprehension, ConversionFlag, Expr, ExprCall, ExprLambda, FStringPart, InterpolatedStringElement,
    Number, Operator, UnaryOp,
};

use super::super::code::{Binary, Const, Instr, Unary};
use super::super::modules;
use super::{Lower, Var};

/// What a comprehension collects.
#[derive(Clone, Copy)]
enum Collect<'a> {
    List(&'a Expr),
    Set(&'a Expr),
    Dict(&'a Expr, &'a Expr),
}

pub(super) fn binary(op: Operator) -> Option<Binary> {
    Some(match op {
        Operator::Add => Binary::Add,
        Operator::Sub => Binary::Sub,
        Operator::Mult => Binary::Mul,
        Operator::Div => Binary::Div,
        Operator::FloorDiv => Binary::FloorDiv,
        Operator::Mod => Binary::Mod,
        Operator::Pow => Binary::Pow,
        Operator::LShift => Binary::ShiftLeft,
        Operator::RShift => Binary::ShiftRight,
        Operator::BitOr => Binary::Or,
        Operator::BitXor => Binary::Xor,
        Operator::BitAnd => Binary::And,
        Operator::MatMult => return None,
    })
}

fn comparison(op: CmpOp) -> Binary {
    match op {
        CmpOp::Eq => Binary::Eq,
        CmpOp::NotEq => Binary::NotEq,
        CmpOp::Lt => Binary::Lt,
        CmpOp::LtE => Binary::LtEq,
        CmpOp::Gt => Binary::Gt,
        CmpOp::GtE => Binary::GtEq,
        CmpOp::Is => Binary::Is,
        CmpOp::IsNot => Binary::IsNot,
        CmpOp::In => Binary::In,
        CmpOp::NotIn => Binary::NotIn,
    }
}

impl<'a> Lower<'a> {
    /// Pushes the value of an expression.
    pub(super) fn expr(&mut self, expr: &'a Expr) {
        let line = self.line;
        self.at(expr);
        if !self.deeper(|lower| lower.expr_here(expr)) {
            let none = self.constant(Const::None);
            self.emit(Instr::Const(none));
        }
        self.line = line;
    }

    fn expr_here(&mut self, expr: &'a Expr) {
        match expr {
            Expr::NoneLiteral(_) => self.push(Const::None),
            Expr::EllipsisLiteral(_) => self.push(Const::None),
            Expr::BooleanLiteral(b) => self.push(Const::Bool(b.value)),
            Expr::NumberLiteral(n) => match &n.value {
                Number::Int(i) => match i.as_i64() {
                    Some(i) => self.push(Const::Int(i)),
                    None => self.refuse("a whole number beyond 64 bits".into()),
                },
                Number::Float(x) => self.push(Const::Float(*x)),
                Number::Complex { .. } => self.refuse("a complex number".into()),
            },
            Expr::StringLiteral(s) => self.push(Const::Str(Arc::from(s.value.to_str()))),
            Expr::BytesLiteral(b) => self.push(Const::Bytes(b.value.bytes().collect())),
            Expr::FString(f) => self.fstring(f.value.iter()),
            Expr::Name(n) => self.load(&n.id),
            Expr::Attribute(a) => {
                if let Some(module) = self.is_module_alias(&a.value)
                    && !modules::has(module, &a.attr)
                {
                    return self.refuse(format!("{}.{}: not built in here", modules::name(module), a.attr.as_str()));
                }
                self.expr(&a.value);
                let sym = self.sym(&a.attr);
                self.emit(Instr::Attr(sym));
            }
            Expr::Subscript(s) => {
                self.expr(&s.value);
                self.expr(&s.slice);
                self.emit(Instr::Index);
            }
            Expr::Slice(s) => {
                for part in [&s.lower, &s.upper, &s.step] {
                    match part {
                        Some(part) => self.expr(part),
                        None => self.push(Const::None),
                    }
                }
                self.emit(Instr::Slice);
            }
            Expr::List(l) => self.sequence(&l.elts, Instr::List(l.elts.len() as u32)),
            Expr::Tuple(t) => {
                self.sequence(&t.elts, Instr::Tuple(t.elts.len() as u32));
                if t.elts.iter().any(Expr::is_starred_expr) {
                    let tuple = modules::builtin("tuple").unwrap_or(0);
                    self.emit(Instr::LoadBuiltin(tuple));
                    self.emit(Instr::Swap);
                    self.emit(Instr::Call(1, u32::MAX));
                }
            }
            Expr::Set(s) => self.sequence(&s.elts, Instr::Set(s.elts.len() as u32)),
            Expr::Dict(d) => {
                let spread = d.items.iter().any(|i| i.key.is_none());
                if spread {
                    self.emit(Instr::Dict(0));
                }
                for item in &d.items {
                    if let Some(key) = &item.key {
                        self.expr(key);
                        self.expr(&item.value);
                        if spread {
                            self.emit(Instr::Dict(1));
                            self.emit(Instr::Merge);
                        }
                    } else {
                        self.expr(&item.value);
                        self.emit(Instr::Merge);
                    }
                }
                if !spread {
                    self.emit(Instr::Dict(d.items.len() as u32));
                }
            }
            Expr::BoolOp(b) => {
                let mut jumps = Vec::new();
                for (i, value) in b.values.iter().enumerate() {
                    self.expr(value);
                    if i + 1 < b.values.len() {
                        let jump =
                            if b.op == BoolOp::And { Instr::JumpIfFalseKeep(0) } else { Instr::JumpIfTrueKeep(0) };
                        jumps.push(self.jump(jump));
                    }
                }
                for jump in jumps {
                    self.land(jump);
                }
            }
            Expr::BinOp(b) => {
                self.expr(&b.left);
                self.expr(&b.right);
                match binary(b.op) {
                    Some(op) => self.emit(Instr::Binary(op)),
                    None => self.refuse("the operator @".into()),
                }
            }
            Expr::UnaryOp(u) => {
                self.expr(&u.operand);
                let op = match u.op {
                    UnaryOp::Not => Unary::Not,
                    UnaryOp::USub => Unary::Minus,
                    UnaryOp::UAdd => Unary::Plus,
                    UnaryOp::Invert => Unary::Invert,
                };
                self.emit(Instr::Unary(op));
            }
            Expr::Compare(c) => self.compare(&c.left, &c.ops, &c.comparators),
            Expr::If(i) => {
                self.expr(&i.test);
                let otherwise = self.jump(Instr::JumpIfFalse(0));
                self.expr(&i.body);
                let end = self.jump(Instr::Jump(0));
                self.land(otherwise);
                self.expr(&i.orelse);
                self.land(end);
            }
            Expr::Named(n) => {
                self.expr(&n.value);
                self.emit(Instr::Dup);
                self.assign(&n.target);
            }
            Expr::Lambda(l) => self.lambda(l),
            Expr::Call(c) => self.call(c),
            Expr::ListComp(c) => self.comprehension(Collect::List(&c.elt), &c.generators),
            Expr::Generator(g) => self.comprehension(Collect::List(&g.elt), &g.generators),
            Expr::SetComp(c) => self.comprehension(Collect::Set(&c.elt), &c.generators),
            Expr::DictComp(c) => match &c.key {
                Some(key) => self.comprehension(Collect::Dict(key, &c.value), &c.generators),
                None => self.refuse("** in a comprehension".into()),
            },
            Expr::Starred(_) => self.refuse("* in this place".into()),
            Expr::Await(_) => self.refuse("await".into()),
            Expr::Yield(_) | Expr::YieldFrom(_) => self.refuse("yield: generators are not run".into()),
            Expr::TString(_) => self.refuse("a template string".into()),
            Expr::IpyEscapeCommand(_) => self.refuse("a notebook's command".into()),
        }
    }

    pub(super) fn push(&mut self, value: Const) {
        let number = self.constant(value);
        self.emit(Instr::Const(number));
    }

    fn sequence(&mut self, elements: &'a [Expr], whole: Instr) {
        if elements.iter().any(Expr::is_starred_expr) {
            self.emit(Instr::List(0));
            for element in elements {
                if let Expr::Starred(starred) = element {
                    self.expr(&starred.value);
                    self.emit(Instr::Extend);
                } else {
                    self.expr(element);
                    self.emit(Instr::Append(0));
                }
            }
        } else {
            for element in elements {
                self.expr(element);
            }
            self.emit(whole);
        }
    }

    fn compare(&mut self, left: &'a Expr, ops: &[CmpOp], rest: &'a [Expr]) {
        self.expr(left);
        let mut ends = Vec::new();
        for (i, (op, right)) in ops.iter().zip(rest).enumerate() {
            self.expr(right);
            if i + 1 < rest.len() {
                self.emit(Instr::Dup);
                self.emit(Instr::Rot3);
                self.emit(Instr::Binary(comparison(*op)));
                ends.push(self.jump(Instr::JumpIfFalseKeep(0)));
            } else {
                self.emit(Instr::Binary(comparison(*op)));
            }
        }
        if !ends.is_empty() {
            let done = self.jump(Instr::Jump(0));
            for end in ends {
                self.land(end);
            }
            self.emit(Instr::Swap);
            self.emit(Instr::Pop);
            self.land(done);
        }
    }

    fn fstring(&mut self, parts: impl Iterator<Item = &'a FStringPart>) {
        let mut count = 0;
        for part in parts {
            match part {
                FStringPart::Literal(literal) => {
                    self.push(Const::Str(Arc::from(&*literal.value)));
                    count += 1;
                }
                FStringPart::FString(f) => count += self.elements(f.elements.iter()),
            }
        }
        self.emit(Instr::Join(count));
    }

    fn elements(&mut self, elements: impl Iterator<Item = &'a InterpolatedStringElement>) -> u32 {
        let mut count = 0;
        for element in elements {
            count += 1;
            match element {
                InterpolatedStringElement::Literal(literal) => self.push(Const::Str(Arc::from(&*literal.value))),
                InterpolatedStringElement::Interpolation(part) => {
                    if let Some(debug) = &part.debug_text {
                        self.push(Const::Str(Arc::from(format!("{debug:?}"))));
                        self.refuse_statement("= in an f-string");
                    }
                    self.expr(&part.expression);
                    let conversion = match part.conversion {
                        ConversionFlag::Str => b's',
                        ConversionFlag::Repr => b'r',
                        ConversionFlag::Ascii => b'a',
                        ConversionFlag::None => 0,
                    };
                    if let Some(spec) = &part.format_spec {
                        let parts = self.elements(spec.elements.iter());
                        self.emit(Instr::Join(parts));
                    }
                    self.emit(Instr::Format(conversion, part.format_spec.is_some()));
                }
            }
        }
        count
    }

    fn lambda(&mut self, lambda: &'a ExprLambda) {
        let count = lambda.parameters.as_ref().map_or((0, None), |p| self.defaults(p));
        self.open(super::ScopeKind::Function, "<lambda>");
        if let Some(parameters) = &lambda.parameters {
            self.parameters(parameters);
        }
        self.expr(&lambda.body);
        self.emit(Instr::Return);
        let body = self.close();
        self.emit(Instr::Function(body, count.0));
        if let Some(names) = count.1 {
            self.emit(Instr::KeywordDefaults(names));
        }
    }

    fn call(&mut self, call: &'a ExprCall) {
        let arguments = &call.arguments;
        let spread =
            arguments.args.iter().any(Expr::is_starred_expr) || arguments.keywords.iter().any(|k| k.arg.is_none());
        // super(): the object is the first parameter of the method around.
        if let Expr::Name(name) = &*call.func
            && name.id.as_str() == "super"
            && let Some(Var::Local(out, slot)) = self.first_parameter()
            && let Some(number) = modules::builtin("super")
        {
            self.emit(Instr::LoadBuiltin(number));
            self.emit(Instr::Load(out, slot));
            return self.emit(Instr::Call(1, u32::MAX));
        }
        if spread {
            self.expr(&call.func);
            self.sequence_of(&arguments.args);
            self.emit(Instr::Dict(0));
            for keyword in &arguments.keywords {
                if let Some(name) = &keyword.arg {
                    self.push(Const::Str(Arc::from(name.as_str())));
                    self.expr(&keyword.value);
                    self.emit(Instr::Dict(1));
                } else {
                    self.expr(&keyword.value);
                }
                self.emit(Instr::Merge);
            }
            return self.emit(Instr::CallSpread);
        }
        let method = match &*call.func {
            Expr::Attribute(a) if self.is_module_alias(&a.value).is_none() => {
                self.expr(&a.value);
                self.called.push((a.attr.to_string(), self.line));
                Some(self.sym(&a.attr))
            }
            other => {
                self.expr(other);
                None
            }
        };
        for argument in &arguments.args {
            self.expr(argument);
        }
        let mut names = Vec::new();
        for keyword in &arguments.keywords {
            if let Some(name) = &keyword.arg {
                names.push(self.sym(name));
            }
            self.expr(&keyword.value);
        }
        let count = (arguments.args.len() + names.len()).min(usize::from(u16::MAX)) as u16;
        let names = if names.is_empty() { u32::MAX } else { self.constant(Const::Names(names)) };
        match method {
            Some(sym) => self.emit(Instr::CallMethod(sym, count, names)),
            None => self.emit(Instr::Call(count, names)),
        }
    }

    fn sequence_of(&mut self, elements: &'a [Expr]) {
        self.emit(Instr::List(0));
        for element in elements {
            if let Expr::Starred(starred) = element {
                self.expr(&starred.value);
                self.emit(Instr::Extend);
            } else {
                self.expr(element);
                self.emit(Instr::Append(0));
            }
        }
    }

    fn comprehension(&mut self, collect: Collect<'a>, generators: &'a [Comprehension]) {
        self.emit(match collect {
            Collect::List(_) => Instr::List(0),
            Collect::Set(_) => Instr::Set(0),
            Collect::Dict(..) => Instr::Dict(0),
        });
        let hidden = self.scope().shadows.len();
        self.generator(collect, generators, 1);
        self.scope().shadows.truncate(hidden);
    }

    fn generator(&mut self, collect: Collect<'a>, generators: &'a [Comprehension], below: u16) {
        let Some((first, rest)) = generators.split_first() else {
            match collect {
                Collect::List(element) => {
                    self.expr(element);
                    self.emit(Instr::Append(below - 1));
                }
                Collect::Set(element) => {
                    self.expr(element);
                    self.emit(Instr::Insert(below - 1));
                }
                Collect::Dict(key, value) => {
                    self.expr(key);
                    self.expr(value);
                    self.emit(Instr::Put(below - 1));
                }
            }
            return;
        };
        if first.is_async {
            self.refuse_statement("async for");
        }
        self.expr(&first.iter);
        self.emit(Instr::Iter);
        let mut assigned = super::names::Assigned::default();
        ruff_python_ast::visitor::Visitor::visit_expr(&mut assigned, &first.target);
        for name in assigned.names {
            let var = self.fresh();
            self.scope().shadows.push((name, var));
        }
        let again = self.here();
        let end = self.jump(Instr::Next(0));
        self.assign(&first.target);
        for test in &first.ifs {
            self.expr(test);
            self.emit(Instr::JumpIfFalse(again));
        }
        if !self.deeper(|lower| lower.generator(collect, rest, below + 1)) {
            return;
        }
        self.emit(Instr::Jump(again));
        self.land(end);
    }
}
