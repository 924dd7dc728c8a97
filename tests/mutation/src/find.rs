//! Which edits can be made in a source file? Each is text that is put before and after a piece of the file, so that
//! edits can stand inside each other.

use std::ops::Range;

use proc_macro2::{Delimiter, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, BinOp, Block, Expr, ReturnType, Signature, Stmt, Type, UnOp};

/// Stands for the call of the switch in [`Edit::before`].
pub const SWITCH: &str = "\u{1}";

/// Calls whose deletion changes costs only.
const COSTS: [&str; 4] = ["reserve", "shrink_to_fit", "shrink_to", "drop"];

/// Functions for people who read logs.
const TEXTS: [&str; 2] = ["Debug", "Display"];

/// A change of the bytes `at` of a file.
pub struct Edit {
    pub at: Range<usize>,
    pub before: String,
    pub after: String,
    /// For example "`<` to `<=`".
    pub change: String,
}

/// All edits of a file, in the order of their positions, outer ones first.
pub fn find(source: &str) -> Result<Vec<Edit>, syn::Error> {
    let mut finder = Finder { source, edits: Vec::new() };
    finder.visit_file(&syn::parse_file(source)?);
    let mut edits = finder.edits;
    edits.sort_by_key(|edit| (edit.at.start, !edit.at.is_empty(), usize::MAX - edit.at.end));
    Ok(edits)
}

struct Finder<'a> {
    source: &'a str,
    edits: Vec<Edit>,
}

impl Finder<'_> {
    fn text(&self, node: &impl Spanned) -> &str {
        &self.source[node.span().byte_range()]
    }

    fn around(&mut self, node: &impl Spanned, before: &str, after: &str, change: &str) {
        let (at, change) = (node.span().byte_range(), change.to_string());
        self.edits.push(Edit { at, before: before.to_string(), after: after.to_string(), change });
    }

    fn instead(&mut self, node: &impl Spanned, changed: &str, change: &str) {
        self.around(node, &format!("(if {SWITCH} {{ {changed} }} else {{ "), " })", change);
    }

    /// The value of a boolean expression is the opposite.
    fn negate(&mut self, node: &impl Spanned, change: &str) {
        self.around(node, &format!("({SWITCH} != ("), "))", change);
    }

    fn condition(&mut self, condition: &Expr) {
        if !has_let(condition) {
            self.negate(condition, "condition negated");
        }
    }

    /// A function returns at its beginning.
    fn function(&mut self, signature: &Signature, block: &Block) {
        if signature.constness.is_some() || block.stmts.is_empty() {
            return;
        }
        let values = match &signature.output {
            ReturnType::Default => vec![String::new()],
            ReturnType::Type(_, kind) => values(kind),
        };
        for value in values {
            let start = block.brace_token.span.open().byte_range().end;
            let before = format!(" if {SWITCH} {{ return {value}; }}");
            let change = format!("{} returns {value}", signature.ident).trim_end().to_string();
            self.edits.push(Edit { at: start..start, before, after: String::new(), change });
        }
        visit::visit_block(self, block);
    }

    fn delete(&mut self, statement: &Stmt) {
        let Stmt::Expr(expression, Some(_)) = statement else { return };
        if is_deletable(expression) {
            self.around(statement, &format!("if !{SWITCH} {{ "), " }", "deleted");
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    // Neither constants, nor patterns, nor types have a place for a call.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'ast syn::TraitItemConst) {}
    fn visit_variant(&mut self, _: &'ast syn::Variant) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}
    fn visit_type(&mut self, _: &'ast Type) {}
    fn visit_path(&mut self, _: &'ast syn::Path) {}
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}

    fn visit_expr_repeat(&mut self, node: &'ast syn::ExprRepeat) {
        self.visit_expr(&node.expr);
    }

    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        if !is_conditional(&node.attrs) {
            visit::visit_item_mod(self, node);
        }
    }

    fn visit_item_impl(&mut self, node: &'ast syn::ItemImpl) {
        let is_text = node.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
        if !is_conditional(&node.attrs)
            && !is_text.is_some_and(|last| TEXTS.iter().any(|text| last.ident == text))
        {
            visit::visit_item_impl(self, node);
        }
    }

    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        if !is_conditional(&node.attrs) {
            self.function(&node.sig, &node.block);
        }
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        if !is_conditional(&node.attrs) {
            self.function(&node.sig, &node.block);
        }
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        if let Some(block) = &node.default {
            self.function(&node.sig, block);
        }
    }

    fn visit_stmt(&mut self, node: &'ast Stmt) {
        self.delete(node);
        visit::visit_stmt(self, node);
    }

    fn visit_expr_if(&mut self, node: &'ast syn::ExprIf) {
        self.condition(&node.cond);
        visit::visit_expr_if(self, node);
    }

    fn visit_expr_while(&mut self, node: &'ast syn::ExprWhile) {
        self.condition(&node.cond);
        visit::visit_expr_while(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        if let Some((_, guard)) = &node.guard
            && !has_let(guard)
        {
            self.around(&**guard, &format!("({SWITCH} || ("), "))", "guard is true");
            self.around(&**guard, &format!("(!{SWITCH} && ("), "))", "guard is false");
        }
        visit::visit_arm(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        if matches!(node.op, UnOp::Not(_)) {
            self.negate(node, "`!` removed");
        }
        visit::visit_expr_unary(self, node);
    }

    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        if matches!(node.op, BinOp::Eq(_) | BinOp::Ne(_)) {
            self.negate(node, "equality negated");
        }
        if let Some((from, to)) = other(&node.op)
            && !has_let(&node.left)
            && !has_let(&node.right)
        {
            let (left, right) = (self.text(&node.left), self.text(&node.right));
            let changed = match node.op {
                BinOp::AddAssign(_) | BinOp::SubAssign(_) => format!("{left} {to} {right}"),
                _ => format!("({left}) {to} ({right})"),
            };
            self.instead(node, &changed, &format!("`{from}` to `{to}`"));
        }
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_method_call(&mut self, node: &'ast syn::ExprMethodCall) {
        let name = node.method.to_string();
        let to = match name.as_str() {
            "min" => "max",
            "max" => "min",
            _ => "",
        };
        if !to.is_empty() && node.args.len() == 1 {
            let changed = format!("{}.{to}({})", self.text(&node.receiver), self.text(&node.args));
            self.instead(node, &changed, &format!("`{name}` to `{to}`"));
        }
        visit::visit_expr_method_call(self, node);
    }

    fn visit_expr_lit(&mut self, node: &'ast syn::ExprLit) {
        if let syn::Lit::Int(number) = &node.lit
            && let Ok(value) = number.base10_parse::<u64>()
            && value < 1 << 31
        {
            let next = format!("{}{}", value + 1, number.suffix());
            self.instead(node, &next, &format!("`{}` to `{next}`", self.text(node)));
        }
    }
}

fn other(operator: &BinOp) -> Option<(&'static str, &'static str)> {
    Some(match operator {
        BinOp::Lt(_) => ("<", "<="),
        BinOp::Le(_) => ("<=", "<"),
        BinOp::Gt(_) => (">", ">="),
        BinOp::Ge(_) => (">=", ">"),
        BinOp::Add(_) => ("+", "-"),
        BinOp::Sub(_) => ("-", "+"),
        BinOp::Mul(_) => ("*", "/"),
        BinOp::Div(_) => ("/", "*"),
        BinOp::And(_) => ("&&", "||"),
        BinOp::Or(_) => ("||", "&&"),
        BinOp::AddAssign(_) => ("+=", "-="),
        BinOp::SubAssign(_) => ("-=", "+="),
        _ => return None,
    })
}

/// Results that a function of this type can return without work.
fn values(kind: &Type) -> Vec<String> {
    let texts = |values: &[&str]| values.iter().map(|value| (*value).to_string()).collect();
    let path = match kind {
        Type::Tuple(tuple) if tuple.elems.is_empty() => return texts(&["()"]),
        Type::Path(path) => path,
        _ => return Vec::new(),
    };
    let Some(last) = path.path.segments.last() else { return Vec::new() };
    match last.ident.to_string().as_str() {
        "bool" => texts(&["true", "false"]),
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" | "i8" | "i16" | "i32" | "i64" | "i128" => {
            texts(&["0", "1"])
        }
        "Option" => texts(&["None"]),
        "String" | "Vec" | "Duration" => texts(&["Default::default()"]),
        "Result" => {
            let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else {
                return texts(&["Ok(())"]);
            };
            let Some(syn::GenericArgument::Type(inner)) = arguments.args.first() else { return Vec::new() };
            values(inner).iter().map(|value| format!("Ok({value})")).collect()
        }
        _ => Vec::new(),
    }
}

/// Statements that are run for what they do.
fn is_deletable(expression: &Expr) -> bool {
    let counts = |name: &syn::Ident| !COSTS.iter().any(|cost| name == cost);
    match expression {
        Expr::MethodCall(call) => counts(&call.method),
        Expr::Call(call) => match &*call.func {
            Expr::Path(path) => path.path.segments.last().is_none_or(|last| counts(&last.ident)),
            _ => true,
        },
        Expr::Try(inner) => is_deletable(&inner.expr),
        Expr::Assign(_) | Expr::Continue(_) => true,
        _ => false,
    }
}

fn has_let(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        Expr::Paren(inner) => has_let(&inner.expr),
        _ => false,
    }
}

/// Compiled for tests alone, or for a feature that is off.
fn is_conditional(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg") && !attribute_is_not(attribute))
    })
}

/// `cfg(not(...))`: on where the tests run.
fn attribute_is_not(attribute: &Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else { return false };
    let mut tokens = list.tokens.clone().into_iter();
    let is_not = matches!(tokens.next(), Some(TokenTree::Ident(name)) if name == "not");
    let group = matches!(tokens.next(), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis
        && !group.stream().to_string().contains("test"));
    is_not && group
}
