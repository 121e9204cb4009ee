#!/usr/bin/env perl
# SPDX-License-Identifier: GPL-2.0-only
#
# The text rules of ci/tidy. Usage: tidy.pl MODE:PATH..., from the clone's root, where MODE is a
# file's mode in git's index. Prints `PATH:LINE: [RULE] message` per violation; exits 1 if any.
#
# Rust is lexed before it is searched: comments and literals never match a rule about code, and
# line numbers stay right. An exception is a line `RULE PATH # reason` in ci/tidy.allow; one
# without a reason, or that excuses nothing, is a violation itself.
use strict;
use warnings;

my $max_line  = 120;
my $max_bytes = 500 * 1000;
my $licence   = 'SPDX-License-Identifier: GPL-2.0-only';
my $logic     = qr{^model/src/logic/};
my $allow     = 'ci/tidy.allow';

my ( %allowed, %used, $violations );

sub violation {
    my ( $rule, $path, $line, $message ) = @_;
    if ( exists $allowed{"$rule $path"} ) {
        $used{"$rule $path"} = 1;
        return;
    }
    $violations++;
    print "$path:$line: [$rule] $message\n";
}

# Every place where $pattern matches in $text, as line numbers.
sub each_match {
    my ( $text, $pattern, $report ) = @_;
    my ( $line, $from ) = ( 1, 0 );
    while ( $text =~ /$pattern/g ) {
        my ( $start, $match ) = ( $-[0], $& );
        $line += substr( $text, $from, $start - $from ) =~ tr/\n//;
        $from = $start;
        $report->( $line, $match );
    }
}

# $text with everything but line ends replaced by blanks.
sub blank {
    my ($text) = @_;
    $text =~ s/[^\n]/ /g;
    return $text;
}

# Rust with its comments and the insides of its literals blanked.
sub code_only {
    my ($text) = @_;
    my $code = '';
    pos($text) = 0;
    while ( pos($text) < length $text ) {
        if ( $text =~ m{\G[^/"'br\w]+}gc || $text =~ m{\G(?!(?:b|c)?r\#*"|[bc]"|b')\w+}gc ) { $code .= $& }
        elsif ( $text =~ m{\G//[^\n]*}gc ) { $code .= blank($&) }
        elsif ( $text =~ m{\G/\*}gc ) {
            my ( $from, $depth ) = ( pos($text) - 2, 1 );
            while ( $depth && $text =~ m{(/\*|\*/)}g ) { $depth += $1 eq '/*' ? 1 : -1 }
            pos($text) = length $text if $depth;
            $code .= blank( substr( $text, $from, pos($text) - $from ) );
        }
        elsif ( $text =~ m{\G(?:[bc]?)r(\#*)".*?"\1}gcs )       { $code .= blank($&) }
        elsif ( $text =~ m{\G[bc]?"(?:[^"\\]|\\.)*"}gcs )       { $code .= blank($&) }
        elsif ( $text =~ /\Gb?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\\n])'/gc ) { $code .= blank($&) }
        else { $text =~ m{\G.}gcs; $code .= $& }
    }
    return $code;
}

sub check_logic {
    my ( $path, $code ) = @_;

    # Tests are a module at the very end, so that cutting there hides nothing else.
    if ( $code =~ /^[ \t]*#\[cfg\([^\n]*\btest\b[^\n]*\)\]/m ) {
        my $start = $-[0];
        my $tests = substr $code, $start;
        my $line  = 1 + substr( $code, 0, $start ) =~ tr/\n//;
        my $end = index $tests, "\n}";
        if ( $tests =~ /\A#\[cfg\(test\)\]\n(?:#\[[^\n]*\]\n)*(?:pub\(super\) )?mod \w+(?:;\s*\z| \{)/
            && ( $end < 0 || substr( $tests, $end + 2 ) =~ /\A\s*\z/ ) )
        {
            $code = substr $code, 0, $start;
        }
        else {
            violation( 'logic-tests-last', $path, $line,
                'cfg(test) is for one `mod` at the end of the file, nothing else and nothing behind it' );
            return;
        }
    }

    # What the compiler evaluates cannot panic at run time.
    $code =~ s/\bconst _: \(\) = (?:(?<block>\{(?:[^{}]++|(?&block))*+\})|[^;{]*);/blank($&)/ge;

    my @rules = (
        [
            'logic-panic',
            qr/\.(?:unwrap|expect)(?:_err)?\s*\(|\b(?:panic|assert|assert_eq|assert_ne|unreachable)!/,
            'may panic, which is a BUG in the kernel: return an error (only constants may be'
                . ' asserted, in a `const _: () = ...;`)'
        ],
        [ 'logic-crate', qr/\bcrate::/, 'the kernel includes this file into another crate: use super:: or self::' ],
        [
            'logic-core',
            qr/(?<![\w:])(?:::)?(?:std|alloc)::|\bextern\s+crate\b/,
            'only `core` exists in the kernel module'
        ],
        [
            'logic-fmt',
            qr/\bcore::fmt\b|\bcore::\{[^;]*\bfmt\b|\b(?:format_args|write|writeln)!/,
            'no formatting on the data path'
        ],
        [ 'logic-attribute', qr/#!\[/, 'inner attributes belong to the crate that includes this file' ],
        [ 'logic-float',     qr/\bf(?:16|32|64|128)\b|\b\d[\d_]*\.\d/, 'the kernel has no floating point' ],
        [ 'logic-wide',      qr/\b[ui]128\b/, 'the kernel has no 128-bit division: use u64 with checked operations' ],
    );
    for (@rules) {
        my ( $rule, $pattern, $why ) = @$_;
        each_match( $code, $pattern, sub { violation( $rule, $path, $_[0], "`$_[1]`: $why" ) } );
    }
}

sub check_rust {
    my ( $path, $text ) = @_;
    violation( 'spdx', $path, 1, "the first line must be `// $licence`" ) unless $text =~ m{\A// \Q$licence\E\n};
    violation( 'header', $path, 2, 'the second line must begin the file\'s contract with `//!`' )
        unless $text =~ m{\A[^\n]*\n(?://!|\#!)};
    my $code = code_only($text);
    each_match( $code, qr/\b(?:todo|unimplemented|dbg)!/,
        sub { violation( 'unfinished', $path, $_[0], "`$_[1]` must not be committed" ) } );
    each_match(
        $code,
        qr/\bthen_some\(\s*[A-Z]/,
        sub {
            violation( 'eager-value', $path, $_[0],
                "`$_[1]` is made in either case, and if it is not wanted its drop unlocks or frees: use then()" );
        }
    ) if $path =~ m{^kmod/};
    check_logic( $path, $code ) if $path =~ $logic && $path !~ m{(?:^|/)tests(?:\.rs$|/)};
}

# Where packages come from is the machine's business. Hosts are recognised by what they are
# called, and by what this machine is configured with; none is named here.
sub host_pattern {
    my %hosts;
    for my $file ( glob('/etc/apt/sources.list /etc/apt/sources.list.d/*'),
        ( $ENV{CARGO_HOME} // ( $ENV{HOME} // '' ) . '/.cargo' ) . '/config.toml' )
    {
        open my $in, '<', $file or next;
        while (<$in>) { $hosts{$1} = 1 while m{\b(?:https?|ftp)://(?:[^/@\s"']*@)?([\w.-]+\.\w+)}g }
    }
    delete @hosts{ grep { /(?:^|\.)github\.com$/ } keys %hosts };
    my $own = join '|', map { quotemeta } sort keys %hosts;
    my $names   = 'deb|ftp|index|mirrors?|registry|registries|proxy|nexus|artifactory|pypi';
    my $generic = qr{\bcrates\.[a-z]{2}\b|://(?:[\w-]+\.)*(?:$names)\d*\.[\w.-]+\.[a-z]{2,}}i;
    return $own eq '' ? $generic : qr{$generic|(?<![\w.-])(?:$own)(?![\w-])};
}

sub check_text {
    my ( $path, $text, $hosts, $places ) = @_;
    my $generated = $path =~ /(?:^|\/)Cargo\.lock$|\.(?:snap|patch|diff)$/;
    my $prose     = $path =~ m{\.(?:md|\d|html|json|jsonl|svg|txt|csv)$|^LICENSES/};
    unless ($generated) {
        each_match( $text, qr/[ \t\r]+$/m,
            sub { violation( 'trailing-space', $path, $_[0], 'white space at the end of the line' ) } );
        violation( 'final-newline', $path, 1 + $text =~ tr/\n//, 'the last line does not end' )
            if $text ne '' && $text !~ /\n\z/;
        each_match( $text, $hosts,
            sub { violation( 'registry', $path, $_[0], "`$_[1]` is a package source: take it from the machine" ) } );
    }
    unless ( $generated || $prose ) {
        my $number = 0;
        for my $line ( split /\n/, $text ) {
            $number++;
            my $shown = $line;
            utf8::decode($shown);
            violation( 'line-length', $path, $number, length($shown) . " characters, at most $max_line" )
                if length $shown > $max_line;
        }
    }
    each_match( $text, $places,
        sub { violation( 'machine-path', $path, $_[0], "`$_[1]` is a path of one machine" ) } );
}

# The exceptions.
if ( open my $in, '<', $allow ) {
    while (<$in>) {
        next if /^\s*(?:#|$)/;
        if (/^(\S+) (\S+)\s+# \S.*\S/) { $allowed{"$1 $2"} = $. }
        else { violation( 'allow-list', $allow, $., 'expected `RULE PATH # reason`' ) }
    }
}

my $hosts = host_pattern();
chomp( my $clone = `git rev-parse --show-toplevel` );

# Home directories, and where this clone lies unless that is a place that others have, too.
my @places = ( qr{(?<![\w.\$\})-])/(?:root|home/[\w.-]+|Users/[\w.-]+)/(?=[\w.])} );
push @places, qr{(?<![\w.])\Q$clone\E(?![\w-])} if $clone =~ m{^/[^/]+/.} && $clone !~ m{^/(?:usr|opt)/};
my $places = join '|', @places;

for (@ARGV) {
    my ( $mode, $path ) = /^(\d+):(.*)$/s or die "tidy.pl: not MODE:PATH: $_\n";
    next if $mode eq '120000' || $mode eq '160000' || !-f $path;
    my $size = -s _;
    if ( $size > $max_bytes ) {
        violation( 'size', $path, 1, "$size bytes, at most $max_bytes: make it when it is needed" );
        next;
    }
    open my $in, '<:raw', $path or die "tidy.pl: $path: $!\n";
    my $text = do { local $/; <$in> } // '';
    next if $text =~ /\0/;

    my $script = $text =~ /\A#!(?!\[)/;
    violation( 'mode', $path, 1, 'begins with `#!` but is not executable: git add --chmod=+x' )
        if $script && $mode ne '100755';
    violation( 'mode', $path, 1, 'is executable but does not begin with `#!`: git add --chmod=-x' )
        if !$script && $mode eq '100755';
    violation( 'spdx', $path, 2, "the second line must be `# $licence`" )
        if $script && $path !~ /\.rs$/ && $text !~ /\A[^\n]*\n# \Q$licence\E\n/;

    check_rust( $path, $text ) if $path =~ /\.rs$/;
    check_text( $path, $text, $hosts, qr/$places/ );
}

for ( sort { $allowed{$a} <=> $allowed{$b} } keys %allowed ) {
    next if $used{$_};
    $violations++;
    print "$allow:$allowed{$_}: [allow-list] `$_` excuses nothing any more: remove it\n";
}
exit( $violations ? 1 : 0 );
