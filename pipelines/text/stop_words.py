"""Words that rules count: function words of a few languages, words of page furniture, words of pornographic sites.

The first eight of each language are, like Gopher's English eight, so common that any running text has two of them.
Other languages have no list, and rules that need one do not apply to them.
"""


def _list(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_LISTS = {
    "en": _list(
        """the be to of and that have with
        a about above after again against all almost along already also although always am among an another any are
        around as at away back because been before being below between both but by can cannot could did do does doing
        done down during each either else enough even ever every few first for from further get gets give go got had
        has having he her here hers herself him himself his how however i if in instead into is it its itself just last
        least less let like made make makes many may me might mine more most much must my myself near neither never next
        no nor not nothing now off often on once one only onto or other others otherwise ought our ours ourselves out
        over own per perhaps quite rather same see several shall she should since so some something sometimes soon
        still such than their theirs them themselves then there therefore these they this those though through thus
        till together too toward towards two under unless until up upon us use used using very was we well were what
        whatever when where whether which while who whole whom whose why will within without would yet you your yours
        yourself don't doesn't didn't isn't aren't wasn't can't won't it's i'm i've you're we're they're that's
        there's let's"""
    ),
    "de": _list(
        """der die und das ist nicht mit zu
        aber alle allem allen aller alles als also am an andere anderen anderer auch auf aus bei beim bereits bin bis
        bist da dabei dadurch dafür damit danach dann daran darauf daraus darf darin darüber dass daß davon dazu dein
        deine dem den denen denn dennoch deren des deshalb dessen diese diesem diesen dieser dieses dir doch dort du
        durch dürfen ein eine einem einen einer eines einige er es etwa etwas euch euer für gegen gibt haben hat hatte
        hatten hier hin hinter ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im immer in indem ins ja jede jedem jeden
        jeder jedes jedoch jene jetzt kann kein keine keinen können könnte man manche mehr mein meine mich mir muss
        müssen nach neben nein nichts noch nun nur ob oder ohne schon sehr sein seine seinem seinen seiner seit sich
        sie sind so sobald solche soll sollte sondern sonst sowie um uns unser unsere unter vom von vor wann war waren
        was weil welche welcher wenn wer werden wie wieder will wir wird wo wurde wurden während würde zum zur zwar
        zwischen über"""
    ),
    "fr": _list(
        """de la le et les des est que
        a afin ai ainsi alors après au aucun aucune aussi autre autres aux avait avant avec avez avoir avons beaucoup
        bien car ce ceci cela celle celles celui ces cet cette ceux chaque chez comme comment contre d'un d'une dans
        depuis deux dont du donc elle elles en encore entre es eux faire fait fois font furent fut ici il ils je jusque
        l'on là leur leurs lors lorsque lui ma mais me même mes moi moins mon ne ni non nos notre nous on ont ou où par
        parce pas pendant peu peut peuvent plus plusieurs pour pourquoi puis qu'il qu'elle qu'un qu'une quand quel
        quelle quelles quels quelque qui quoi sa sans se selon sera ses si son sont sous souvent sur ta te tes toi ton
        toujours tous tout toute toutes très trop tu un une vers voici vos votre vous y à été être était étaient c'est
        n'est d'autres s'est"""
    ),
    "es": _list(
        """de la que el en los y del
        a al algo algunas alguno algunos alguna ante antes aquel aquella aquellos aquí así aún aunque bajo bien cada
        casi como con contra cual cuales cuando cuanto cómo da de desde después donde dos durante e ella ellas ellos
        entonces entre era eran es esa esas ese eso esos esta estaba estado estas este esto estos está están fue fueron
        ha hace hacia han hasta hay he la las le les lo luego me mi mientras mis mismo misma mismos mucho muchos muy más
        mí nada ni no nos nosotros nuestra nuestro nunca o os otra otras otro otros para pero poco por porque pues puede
        pueden qué quien quienes se sea según ser si sido siempre sin sino sobre son su sus sí también tan tanto te
        tenía tiene tienen todo toda todas todos tras tu tus un una unas uno unos usted ya yo él"""
    ),
    "it": _list(
        """di e il la che in per un
        a ad agli ai al alla alle allo allora anche ancora avere aveva avevano c'è che chi ci ciò come con così cui da
        dagli dai dal dalla dalle dallo degli dei del dell' della delle dello dentro deve di dopo dove due dunque ed
        era erano essere fa fare fino fra fu furono già gli ha hanno ho i io la le lei li lo loro lui l'altro ma me
        mentre mi mia mio molto molti ne negli nei nel nella nelle nello no noi non nostra nostro nulla o ogni oltre
        oppure ora per perché però più poi possono prima proprio può qua qual quale quali quando quanto quasi quella
        quelle quelli quello questa queste questi questo qui quindi se sei sempre senza si sia siamo sono sopra sotto
        sta stata stati stato su sua sue sugli sui sul sulla sulle sullo suo suoi tra tu tutta tutte tutti tutto una
        uno vi voi è"""
    ),
    "pt": _list(
        """de a o que e do da em
        ao aos aquela aquele aqueles aqui as assim até bem cada com como contra da das de dela dele deles depois desde
        dessa desse desta deste disso dois dos durante e ela elas ele eles em enquanto entre era eram essa essas esse
        esses esta estas estava este estes estes está estão eu foi for foram há isso isto já lhe lhes mais mas me mesma
        mesmo meu minha muito muitos na nada nas nem nenhum no nos nossa nosso num numa não nós o onde os ou outra
        outras outro outros para pela pelas pelo pelos pode podem pois por porque porém pouco qual quais quando quanto
        quase que quem se seja sem sempre ser seu seus sido sob sobre somente sua suas são só tal também tanto te tem
        tendo ter teve toda todas todo todos tu tudo tão têm um uma umas uns vocês você às à é"""
    ),
    "nl": _list(
        """de het een en van in is dat
        aan achter al alle alleen alles als altijd ander andere anders bij binnen boven daar daarna daarom dan deze die
        dit doen door dus echter eens eerst elk elke er ge geen geweest haar had hadden heb hebben heeft hem hen hier
        hij hoe hun ik indien je jij jou jouw jullie kan kon kunnen maar me meer men met mij mijn minder misschien moet
        moeten mogen na naar naast nadat niet niets nog nooit nu of om omdat ons onze ook op over reeds sinds soms
        steeds te tegen ten ter terwijl toch toen tot tussen u uit uw vaak veel verder via volgens voor vooral waar
        waarbij waarin waren was wat we weer wel welke werd werden wie wij wil worden wordt zal ze zei zelf zich zij
        zijn zo zoals zonder zou zouden zowel"""
    ),
}

STOP_WORDS: dict[str, frozenset[str]] = {lang: frozenset(words) for lang, words in _LISTS.items()}
"""Function words by language."""

CORE_STOP_WORDS: dict[str, frozenset[str]] = {lang: frozenset(words[:8]) for lang, words in _LISTS.items()}
"""Eight words of each language of which running text has at least two."""

SPAM_WORDS: frozenset[str] = frozenset(
    _list(
        """abonnieren advertisement advertising affiliate basket cart checkout compartir cookie cookies copyright coupon
        discount facebook follow instagram linkedin login logout newsletter partager pinterest popup register reply
        share shares sidebar signup sitemap sponsored subscribe subscriber suivre teilen tiktok tweet twitter
        unsubscribe whatsapp youtube"""
    )
)
"""Words of buttons and banners, without `menu` and `click`, which are frequent in manuals."""

FLAGGED_WORDS: frozenset[str] = frozenset(
    _list(
        """anal bdsm blowjob bondage bukkake camgirl clit cock creampie cum cumshot dildo escort fetish fuck fucking
        gangbang handjob hardcore hentai hooker horny milf nsfw nude nudes orgasm orgy porn porno pornhub pussy sex
        sexcam sexy slut threesome tits vagina webcam whore xnxx xvideos xxx"""
    )
)
"""Words whose share reveals a pornographic page; a single one in a long text is harmless."""
