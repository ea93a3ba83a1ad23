"""The word lists behind the value inventories: plain data, simple words first.

No word stands in two lists, and none is used by a phrasing: a value that occurs in a text was put there as that value.
"""

__all__ = ["BASE_COLOURS", "CITIES", "DAYS", "FOODS", "HOURS", "JOBS", "NAMES", "NAME_PARTS",
           "ANIMALS", "THINGS", "FURNITURE", "MATERIALS", "MINUTES", "SHADES", "BOOK_QUALITIES", "BOOK_SUBJECTS"]  # fmt: skip

NAMES = """
Anna Tom Mia Leo Nina Paul Lena Max Eva Ben Ida Karl Sara Otto Luca Hugo Zoe Emil Nora Felix Clara Ivan Julia Oscar
Marta Simon Laura David Alma Peter Rita Boris Helen Marco Olga Victor Elsa Anton Irene Jonas Carla Bruno Agnes Erik
Vera Hannes Tara Milan Lucy Dario Greta Pablo Sonja Kevin Diana Ralph Edith Niels Wanda Cyril
""".split()

NAME_PARTS = (
    """ba be bo da de di do fa fe fi ga gi go ha he ho ja jo ka ki ko la le li lo ma me mi mo na ne ni
    pa pe pi ra re ri ro sa se si so ta te ti to va ve vi wa xa ya za ze zu""".split(),
    """ba be bi bo da do fa fi ga ka ki ko la le li lo lu ma mi mo mu na ni no pa po ra ri ro ru sa so su
    ta ti tu va vi za zi""".split(),
    """n r s l m x k th nd sh lyn ric dan vor bel gar tis wen mar dor""".split(),
)

CITIES = """
Paris Rome London Berlin Madrid Lisbon Vienna Prague Oslo Warsaw Athens Dublin Tokyo Cairo Delhi Lima Boston Chicago
Moscow Munich Geneva Zurich Naples Venice Porto Sydney Toronto Dallas Denver Seattle Miami Helsinki Stockholm
Brussels Budapest Bucharest Sofia Zagreb Belgrade Sarajevo Skopje Tirana Riga Vilnius Tallinn Minsk Kyiv Odessa Lviv
Krakow Gdansk Poznan Leipzig Dresden Hamburg Bremen Cologne Bonn Stuttgart Mainz Basel Bern Lucerne Salzburg Graz Linz
Innsbruck Turin Genoa Bologna Verona Pisa Palermo Catania Bari Trieste Lyon Marseille Lille Nantes Bordeaux
Toulouse Rennes Dijon Reims Seville Granada Malaga Bilbao Valencia Zaragoza Toledo Cordoba Faro Braga Coimbra Antwerp
Ghent Bruges Rotterdam Utrecht Leiden Delft Haarlem Bergen Trondheim Malmo Uppsala Aarhus Odense Tampere Turku Glasgow
Edinburgh Cardiff Belfast Leeds Bristol Oxford Cambridge York Manchester Liverpool Sheffield Cork Galway Limerick
Montreal Ottawa Vancouver Calgary Halifax Quebec Houston Austin Phoenix Tucson Portland Oakland Detroit Memphis
Nashville Atlanta Tampa Orlando Omaha Tulsa Havana Bogota Quito Caracas Santiago Montevideo Asuncion Brasilia Salvador
Recife Manaus Rosario Mendoza Dakar Lagos Accra Nairobi Kampala Lusaka Harare Durban Tunis Algiers Tripoli Khartoum
Ankara Izmir Istanbul Tbilisi Baku Yerevan Tehran Shiraz Baghdad Basra Amman Beirut Damascus Muscat Doha Dubai Karachi
Lahore Mumbai Chennai Kolkata Jaipur Kathmandu Dhaka Yangon Bangkok Hanoi Saigon Manila Jakarta Singapore Taipei
Shanghai Beijing Nanjing Wuhan Harbin Seoul Busan Osaka Kyoto Nagoya Sapporo Perth Brisbane Adelaide Auckland Wellington
""".split()

FOODS = """
pizza bread cheese soup rice cake pasta salad honey apple banana butter yogurt chocolate lemon tomato potato carrot
mushroom onion garlic cherry peach pear plum grape melon mango coconut walnut almond hazelnut peanut cashew
pistachio olive spinach cabbage broccoli cauliflower celery cucumber radish beetroot turnip pumpkin zucchini eggplant
leek asparagus artichoke lettuce parsley basil oregano thyme ginger cinnamon vanilla nutmeg saffron paprika
mustard ketchup mayonnaise vinegar salsa pesto hummus falafel couscous quinoa lentil chickpea tofu tempeh noodle ramen
sushi tempura dumpling burrito taco nacho quesadilla enchilada paella risotto lasagna ravioli gnocchi spaghetti polenta
omelette pancake waffle crepe croissant baguette bagel pretzel biscuit cookie muffin brownie doughnut pudding custard
tiramisu cheesecake sorbet gelato caramel toffee fudge marzipan nougat marmalade jelly syrup popcorn granola oatmeal
porridge cornbread tortilla flatbread focaccia sourdough gazpacho borscht goulash chowder curry chutney kebab
burger sandwich sausage bacon salami steak meatball meatloaf schnitzel veal pork beef ratatouille quiche souffle casserole fondue raclette tapioca sauerkraut kimchi pickle guacamole tzatziki moussaka
dolma baklava halva pavlova strudel eclair macaron meringue trifle shortbread scone crumpet crouton kale chard fennel
rhubarb apricot nectarine papaya guava lychee pomegranate raspberry blueberry blackberry strawberry cranberry
gooseberry currant raisin prune quince persimmon pineapple grapefruit tangerine clementine
""".split()

ANIMALS = """
lion tiger bear wolf fox elephant monkey rabbit sheep cow duck frog whale shark owl eagle snake turtle camel
zebra giraffe deer hamster squirrel hedgehog badger otter beaver rat weasel ferret mink lynx leopard cheetah
jaguar panther hyena jackal coyote dingo gorilla chimpanzee baboon gibbon lemur koala kangaroo wallaby wombat platypus
echidna sloth armadillo anteater aardvark tapir rhinoceros hippopotamus bison buffalo yak gazelle antelope impala moose
reindeer elk caribou llama alpaca goat boar warthog porcupine chinchilla gerbil lemming vole shrew raccoon skunk
opossum meerkat mongoose walrus dolphin porpoise narwhal manatee penguin puffin albatross pelican heron stork
flamingo ibis swan goose pheasant quail partridge peacock ostrich emu cassowary kestrel falcon hawk vulture condor raven
crow magpie starling sparrow finch thrush nightingale swallow kingfisher woodpecker cuckoo hummingbird
parakeet cockatoo macaw toucan canary pigeon dove gull tern iguana gecko chameleon lizard crocodile alligator tortoise
toad newt salamander trout salmon herring mackerel tuna cod carp eel sturgeon halibut flounder sardine
anchovy barracuda piranha stingray octopus squid cuttlefish lobster crab shrimp prawn oyster mussel clam snail slug
beetle ladybird grasshopper locust butterfly moth dragonfly wasp hornet bumblebee spider scorpion centipede
""".split()

JOBS = """
baker farmer pilot nurse lawyer painter singer butcher driver waiter cook tailor barber plumber gardener
fisherman carpenter writer actor dancer sailor soldier judge clerk cashier librarian engineer architect
electrician mechanic welder blacksmith goldsmith watchmaker shoemaker potter weaver dyer tanner brewer
winemaker beekeeper shepherd florist forester ranger miner mason bricklayer roofer glazier joiner upholsterer locksmith
surgeon physician pharmacist optician midwife paramedic therapist psychologist psychiatrist veterinarian radiologist
biologist chemist physicist mathematician astronomer geologist botanist zoologist historian archaeologist philosopher
linguist translator interpreter journalist reporter novelist poet playwright composer pianist
violinist cellist drummer guitarist trumpeter organist sculptor photographer illustrator animator designer curator
auctioneer broker banker accountant auditor actuary economist statistician analyst consultant secretary
receptionist typist courier postman dispatcher porter bellhop concierge bartender barista sommelier caterer
confectioner grocer fishmonger greengrocer merchant wholesaler salesman cleaner janitor caretaker housekeeper nanny
tutor professor lecturer headmaster referee umpire lifeguard jockey racer cyclist boxer wrestler gymnast
astronaut navigator stewardess boatswain diver surveyor cartographer meteorologist programmer technician
inspector detective policeman constable sheriff bailiff notary prosecutor solicitor barrister diplomat
ambassador mayor senator governor priest rabbi deacon bishop undertaker magician juggler acrobat clown puppeteer
ventriloquist comedian beautician hairdresser manicurist masseur stuntman croupier bookbinder typesetter
""".split()

SHADES = "dark light pale bright deep soft warm dull faded rich muted vivid dusty smoky".split()
BASE_COLOURS = "red blue green yellow brown grey pink purple violet turquoise crimson scarlet beige indigo magenta".split()

FURNITURE = """
drawer box basket cupboard wardrobe bag chest cabinet suitcase jar bucket tray case trunk sack barrel crate
""".split()
MATERIALS = "wooden metal paper plastic glass steel leather cotton wicker tin copper bamboo stone canvas rubber".split()

THINGS = """
lamp chair table mirror carpet kettle clock vase pillow blanket guitar camera radio bicycle tent hammer ladder
""".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
HOURS = "eight nine ten eleven one two three four five six seven".split()
MINUTES = "sharp fifteen thirty forty".split()

BOOK_QUALITIES = """
Silent Golden Hidden Broken Lost Frozen Burning Secret Distant Empty Ancient Endless Sleeping Forgotten Crooked
""".split()
BOOK_SUBJECTS = """
River Garden Tower Mountain Forest Island Bridge Harbour Castle Desert Window Valley Lantern Staircase Orchard
""".split()
